"""The commands and their flags, as tables that `jssl.flags` reads."""

from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command: its purpose, its flags as for `argparse`, and whether it takes `--config`."""

    purpose: str
    flags: dict[str, dict[str, Any]]
    config: bool = False


_WORKDIR: dict[str, dict[str, Any]] = {"workdir": {"metavar": "DIR", "help": "folder of the run"}}
_CHECKPOINT: dict[str, dict[str, Any]] = {
    "step": {"type": int, "metavar": "N", "help": "checkpoint; the newest by default"},
    "source": {"metavar": "NAME", "help": "data set; that of the run by default"},
    "data_dir": {"metavar": "DIR", "help": "folder of the data set"},
    "limit": {
        "type": int,
        "metavar": "N",
        "help": "a dry run on N pictures of each split, which is no result",
    },
}
_WEIGHTS: dict[str, dict[str, Any]] = {
    "weights": {"metavar": "FILE", "help": "published weights; imported into --workdir first"},
    "family": {"metavar": "NAME", "help": "kind of the weights file; recognised by default"},
}
_JOB: dict[str, dict[str, Any]] = {
    "distributed": {"type": bool, "help": "join the job that the cluster describes"},
    "coordinator": {"metavar": "HOST:PORT", "help": "process 0, without a cluster manager"},
    "processes": {"type": int, "metavar": "N", "help": "number of processes of that job"},
    "process": {"type": int, "metavar": "N", "help": "index of this process"},
    "init_timeout": {
        "type": int,
        "default": 300,
        "metavar": "SECONDS",
        "help": "longest wait for the others to start",
    },
    "heartbeat_timeout": {
        "type": int,
        "default": 30,
        "metavar": "SECONDS",
        "help": "a process that is silent for longer is dead",
    },
    "shutdown_timeout": {
        "type": int,
        "default": 60,
        "metavar": "SECONDS",
        "help": "longest wait for the others to exit",
    },
}
# Of `jssl train --data=DIR`, which needs no config: each with the key that it stands for.
FORM_KEYS = {
    "data": "data.data_dir",
    "method": "",
    "model": "model.name",
    "size": "augment.size",
    "epochs": "epochs",
    "minutes": "epochs",
    "labels": "data.layout",
}
_FORM: dict[str, dict[str, Any]] = {
    "data": {"metavar": "DIR", "help": "folder of pictures; in place of --config, with --method"},
    "method": {"metavar": "NAME", "help": "of a run on --data: simclr, byol, dvae, ..."},
    "model": {"metavar": "NAME", "help": "network, with --data; chosen for the device by default"},
    "size": {"type": int, "metavar": "N", "help": "side of the views, with --data; by default the "
             "pictures and the device decide"},
    "epochs": {"type": float, "metavar": "N", "help": "length, with --data"},
    "minutes": {"type": float, "metavar": "N", "help": "length as a time, with --data: measured "
                "before the run"},
    "labels": {"metavar": "auto|none", "help": "with --data: sub-folders are classes, or nothing"},
}  # fmt: skip
COMMANDS: dict[str, Command] = {
    "train": Command(
        "trains a config or on a folder of pictures, or resumes its run",
        {
            **_WORKDIR,
            **_FORM,
            "extend": {"type": bool, "help": "train the run for more --config.epochs"},
            **_JOB,
        },
        config=True,
    ),
    "sweep": Command(
        "trains every combination of some settings, and chooses one on held-out training examples",
        {
            **_WORKDIR,
            "over": {
                "action": "append",
                "metavar": "KEY=V1,V2",
                "help": "a setting and its values; may be given several times",
            },
            "seeds": {"default": "0", "metavar": "N,N", "help": "of the runs; 0 by default"},
        },
        config=True,
    ),
    "runs": Command(
        "lists the runs below a folder, or compares two runs",
        {
            "folders": {
                "positional": True,
                "nargs": "+",
                "metavar": "DIR",
                "help": "one folder with runs, or the workdirs of two",
            },
        },
    ),
    "config": Command("prints every setting of a config, and where it comes from", {}, config=True),
    "configs": Command("lists the configs that come with jssl", {}),
    "import": Command(
        "writes published weights as the workdir of a run",
        {**_WORKDIR, **_WEIGHTS},
    ),
    "evaluate": Command(
        "evaluates a run by protocols",
        {
            **_WORKDIR,
            **_WEIGHTS,
            "protocol": {
                "default": "default",
                "help": "comma-separated names, or all; default: knn, and logistic below 10,000 "
                "train examples, else linear",
            },
            "k": {"type": int, "metavar": "N", "help": "neighbours of kNN"},
            "temperature": {"type": float, "help": "of kNN's weights exp(similarity/temperature)"},
            "feature": {"metavar": "NAME", "help": "backbone or an intermediate"},
            "preset": {"metavar": "NAME", "help": "of linear; the method's own by default"},
            "epochs": {
                "type": float,
                "help": "of linear, voc*, the first phase of label_efficient (the second has "
                "half); the preset's by default",
            },
            "seed": {"type": int, "help": "of the protocols; the run keeps its own"},
            "seeds": {
                "type": int,
                "metavar": "N",
                "help": "trainings of voc_detection and voc_segmentation",
            },
            "lr": {"type": float, "help": "of voc2007_finetune; selected from a grid by default"},
            "wd": {"type": float, "help": "its weight decay, before it is divided by the rate"},
            "fraction": {
                "metavar": "F,F",
                "help": "of the labels, for label_efficient: 0.01,0.1 is 1 %% and 10 %%",
            },
            **_CHECKPOINT,
        },
    ),
    "embed": Command(
        "writes the features of a data set",
        {
            **_WORKDIR,
            **_WEIGHTS,
            "data": {"metavar": "FOLDER", "help": "short for --source=folder --data_dir=FOLDER"},
            "output": {"metavar": "FILE", "help": "the file to write: .npz, .csv or .parquet"},
            "feature": {"default": "backbone", "metavar": "NAME", "help": "or an intermediate"},
            "split": {"help": "train or test; by default all of a folder, or test"},
            "on_error": {"help": "an unusable picture: stop or skip; as in the run by default"},
            **_CHECKPOINT,
            **_JOB,
        },
    ),
    "predict": Command(
        "writes the classes of pictures, by a run with a classifier",
        {
            **_WORKDIR,
            **_WEIGHTS,
            "input": {
                "nargs": "+",
                "action": "extend",
                "metavar": "FILE",
                "help": "pictures, folders or patterns such as 'photos/*.jpg'",
            },
            "output": {"metavar": "FILE.csv", "help": "the file to write"},
            "top_k": {"type": int, "metavar": "N", "help": "classes of each picture; 5 by default"},
            "step": _CHECKPOINT["step"],
        },
    ),
    "neighbors": Command(
        "writes the most similar pictures of a folder, or its near duplicates",
        {
            **_WORKDIR,
            **_WEIGHTS,
            "data": {"metavar": "FOLDER", "help": "pictures, searched to any depth"},
            "query": {
                "nargs": "+",
                "action": "extend",
                "metavar": "FILE",
                "help": "pictures whose neighbours are written",
            },
            "k": {"type": int, "default": 9, "metavar": "N", "help": "neighbours of each query"},
            "near-duplicates": {
                "type": float,
                "metavar": "COSINE",
                "help": "groups of pictures that are at least so similar, such as 0.98",
            },
            "output": {"metavar": "FILE.csv", "help": "the file to write"},
            "gallery": {
                "metavar": "FILE",
                "help": "the pictures, .html or .png; by default an .html beside the output",
            },
            "feature": {"default": "backbone", "metavar": "NAME", "help": "or an intermediate"},
            "step": _CHECKPOINT["step"],
        },
    ),
    "export": Command(
        "writes a trained encoder for another library",
        {
            **_WORKDIR,
            "output": {"metavar": "FILE", "help": "the file or folder to write"},
            "format": {
                "default": "detectron2",
                "help": "safetensors, torch, timm, hf, onnx or detectron2; each with a card",
            },
            "which": {
                "metavar": "WEIGHTS",
                "help": "online or averaged; those that the run's evaluation uses by default",
            },
            "step": _CHECKPOINT["step"],
            "pixels": {"metavar": "TYPE", "help": "input of onnx: uint8, the default, or float32"},
        },
    ),
    "report": Command(
        "makes the report of a run, one page; or the table of results of many",
        {
            "workdir": {"metavar": "DIR", "help": "of a run, whose report.html is written"},
            "map": {"metavar": "pca|umap", "help": "of the features; umap needs jssl[umap]"},
            "records": {
                "metavar": "FILE_OR_DIR,..",
                "help": "folder of result.json files; with --output also files, and several",
            },
            "output": {"metavar": "FILE.html", "help": "page that compares the runs of --records"},
            "readme": {"metavar": "FILE", "help": "file whose results table is replaced"},
        },
    ),
    "doctor": Command(
        "prints devices, versions, memory, disk and clocks, and tries a step on all devices",
        {
            "workdir": {"metavar": "DIR", "help": "whose disk is looked at, too"},
            **_JOB,
        },
    ),
    "compile": Command(
        "compiles a config for hardware that you do not have: memory, time, traffic",
        {
            "topology": {"metavar": "CHIP:SHAPE", "help": "v5e:16x16, v5p:4x4x4, h100:8"},
            "batch": {
                "default": "",
                "help": "examples per device, or auto; the config's by default",
            },
            "examples": {
                "type": int,
                "default": 0,
                "metavar": "N",
                "help": "in the train split, if the data are not on this machine",
            },
            "teacher": {
                "metavar": "CONFIG",
                "help": "of a deit run with distillation, if its workdir is not on this machine",
            },
            "effort": {
                "type": float,
                "default": 0.0,
                "metavar": "-1..0",
                "help": "of the TPU compiler: -1 is 8 times as fast, its numbers some percent off",
            },
            "output": {"metavar": "FILE.json", "help": "the record to write"},
        },
        config=True,
    ),
}
ALIASES = {"fit": "compile"}  # older names
