"""The commands: `jssl train|evaluate|embed|export|report|fit`, also as `python -m jssl`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jssl import terminal
from jssl.errors import UserError, WriteError, nearest

USAGE = """jssl: self-supervised vision training in JAX

  jssl train     --config=configs/NAME.py[:switches] --workdir=DIR [--config.key=value ...]
  jssl evaluate  --workdir=DIR [--protocol=knn,linear|all] [--k=20] [--temperature=0.1]
                 [--feature=backbone] [--preset=NAME]
  jssl embed     --workdir=DIR --output=FILE.npz [--source=NAME] [--split=test]
  jssl export    --workdir=DIR --output=FILE.pkl [--format=detectron2]
  jssl report    --records=DIR [--readme=README.md]
  jssl fit       --config=configs/NAME.py[:switches] --topology=v5e:16x16 [--batch=auto]
                 [--output=FILE.json]

Every run leaves its config, versions, parameter table, metrics and checkpoints in the workdir;
the same command resumes it. `jssl --helpfull` lists every flag.
"""


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    config_flags.DEFINE_config_file("config", None, "Config file, configs/NAME.py:switches.")
    flags.DEFINE_list("protocol", ["knn", "linear"], "evaluate: which protocols; all: the card.")
    flags.DEFINE_integer("k", 20, "evaluate: neighbours of kNN.")
    flags.DEFINE_float("temperature", 0.1, "evaluate: kNN votes weigh exp(similarity/temperature).")
    flags.DEFINE_string("feature", "backbone", "evaluate, embed: backbone or an intermediate.")
    flags.DEFINE_string("preset", "", "evaluate: of the linear protocol; the method's by default.")
    flags.DEFINE_float("epochs", 0.0, "evaluate: epochs of linear and voc_*; 0: the preset's.")
    flags.DEFINE_integer("seed", 0, "evaluate: of what a protocol draws; the run's own stays.")
    flags.DEFINE_integer("step", None, "evaluate, embed: checkpoint; the newest by default.")
    flags.DEFINE_string("source", None, "evaluate, embed: data set; transfer: some, or all12.")
    flags.DEFINE_string("data_dir", None, "evaluate, embed: where the data set lies.")
    flags.DEFINE_string("split", "test", "embed: train or test.")
    flags.DEFINE_string(
        "output", None, "embed: the .npz to write; export: the .pkl; fit: the .json."
    )
    flags.DEFINE_string(
        "format", "detectron2", "export: whose file; a recipe is written beside it."
    )
    flags.DEFINE_string("records", None, "report: folder of result.json files.")
    flags.DEFINE_string("readme", None, "report: file whose results table to replace.")
    flags.DEFINE_string("topology", None, "fit: CHIP:SHAPE, such as v5e:16x16, v5p:4x4x4, h100:8.")
    flags.DEFINE_string("batch", "", "fit: examples a device, or auto; the config's by default.")
    flags.DEFINE_integer("examples", 0, "fit: in the train split, where the data are not here.")
    flags.DEFINE_bool("distributed", False, "train: join the job that the cluster describes.")
    flags.DEFINE_string("coordinator", None, "train: host:port of process 0, for a job by hand.")
    flags.DEFINE_integer("processes", None, "train: number of processes of that job.")
    flags.DEFINE_integer("process", None, "train: which of them this is.")
    flags.DEFINE_integer("init_timeout", 300, "train: seconds to wait for the others to start.")
    flags.DEFINE_integer("heartbeat_timeout", 30, "train: silent so many seconds, one is dead.")
    flags.DEFINE_integer("shutdown_timeout", 60, "train: seconds to wait for the others to end.")


def _need(name: str, example: str) -> str:
    value = getattr(flags.FLAGS, name)
    if not value:
        raise UserError(f"--{name} is missing. Type --{name}={example}.")
    return value


def _distribute() -> None:
    """Joins the job, when the flags say that there is one."""
    import jax

    f = flags.FLAGS
    timeouts = {
        "initialization_timeout": f.init_timeout,
        "heartbeat_timeout_seconds": f.heartbeat_timeout,
        "shutdown_timeout_seconds": f.shutdown_timeout,
    }
    if f.coordinator is not None:
        jax.distributed.initialize(f.coordinator, f.processes, f.process, **timeouts)
    elif f.distributed:
        jax.distributed.initialize(**timeouts)


def _train() -> None:
    config = flags.FLAGS.config
    if config is None:
        raise UserError("--config is missing. Type --config=configs/simclr_photos.py.")
    folder = _need("workdir", "runs/NAME")
    _distribute()
    from jssl import job, judge, stages, stopping, workdir

    run = stages.run if stages.stages_of(config) else judge.train_and_judge
    with stopping.signals(), job.together(folder), workdir.write_errors(Path(folder).absolute()):
        run(config, folder)


def _evaluate() -> None:
    from jssl import protocols

    f = flags.FLAGS
    folder = _need("workdir", "runs/NAME")
    settings = {name: getattr(f, name) for name in protocols.Settings._fields}
    protocols.evaluate_run(folder, protocols=f.protocol, settings=protocols.Settings(**settings))


def _embed() -> None:
    from jssl import protocols

    f = flags.FLAGS
    protocols.embed_run(
        _need("workdir", "runs/NAME"),
        output=_need("output", "features.npz"),
        feature=f.feature,
        step=f.step,
        source=f.source,
        data_dir=f.data_dir,
        split=f.split,
    )


def _export() -> None:
    from jssl import convert

    f = flags.FLAGS
    formats = {"detectron2": convert.export_detectron2}
    if f.format not in formats:
        raise UserError(f"Unknown format '{f.format}': {nearest(f.format, formats)}.")
    output = _need("output", "resnet.pkl")
    recipe = formats[f.format](_need("workdir", "runs/NAME"), output)
    print(f"{output}: the encoder for {f.format}; how to fine-tune it: {recipe}")


def _report() -> None:
    from jssl import report

    report.report(_need("records", "configs/results"), readme=flags.FLAGS.readme)


def _fit() -> None:
    f = flags.FLAGS
    if f.config is None:
        raise UserError("--config is missing. Type --config=configs/simclr_imagenet.py.")
    from jssl.fit import command, devices

    topology = devices.prepare(_need("topology", "v5e:16x16"))
    words = [w.partition("=")[2] for w in sys.argv if w.startswith("--config=")]
    name = words[-1].replace(".py", "").removeprefix("configs/") if words else f.config.method
    changed = [w.removeprefix("--config.") for w in sys.argv if w.startswith("--config.")]
    command.fit(
        f.config,
        name=" ".join([name, *changed]),
        topology=topology,
        batch=f.batch,
        examples=f.examples,
        output=f.output,
    )


COMMANDS = {"train": _train, "evaluate": _evaluate, "embed": _embed, "export": _export,
            "report": _report, "fit": _fit}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Runs the command named by the first word."""
    if len(argv) < 2:
        print(USAGE)
        return
    if len(argv) > 2:
        raise UserError(f"Unexpected word '{argv[2]}' after '{argv[1]}'. Flags begin with --.")
    if argv[1] not in COMMANDS:
        raise UserError(f"Unknown command '{argv[1]}': {nearest(argv[1], COMMANDS)}.")
    COMMANDS[argv[1]]()


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them is the user's to mend."""
    if "--help" in argv:
        print(USAGE)
        sys.exit(0)
    for word in argv:
        if word.startswith("--config="):
            path = word.removeprefix("--config=").split(":")[0]
            if not Path(path).is_file():
                raise UserError(
                    f"There is no config file '{path}' here ({Path.cwd()}): "
                    f"{nearest(path, map(str, Path('configs').glob('*.py')))}."
                )
    try:
        words = flags.FLAGS(list(argv))
        if not flags.FLAGS["verbosity"].present:
            # Orbax and grain tell every step of theirs at INFO; --verbosity=0 brings it back.
            logging.set_verbosity(logging.WARNING)
        return words
    except (flags.Error, AttributeError, TypeError, UserError) as error:
        # ml_collections wraps what a config file raises: what it said first is what helps.
        chain: list[BaseException] = [error]
        while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(deeper)
        for cause in reversed(chain):
            if isinstance(cause, UserError):
                raise cause from None
        if isinstance(error, flags.Error):
            raise UserError(
                f"{str(error).splitlines()[0]}. `jssl --helpfull` lists the flags."
            ) from None
        key = str(error).strip('"').replace("\\'", "'").replace("\\n", " ")
        given = [w for w in argv if w.startswith("--config.")]
        raise UserError(f"A --config flag names an unknown key: {key} Given: {given}.") from None


def run() -> None:
    """Entry point of the console script: user errors end with a message and status 2."""
    terminal.guard_streams()
    logging.get_absl_handler().python_handler.stream = sys.stderr
    _define_flags()
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"jssl: {error}", file=sys.stderr)
        if isinstance(error, WriteError):
            os._exit(2)  # at exit libraries would try to write the same again, and bury the message
        sys.exit(2)
