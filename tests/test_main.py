"""What a user sees: commands, mistakes caught before anything is compiled, and what to type."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, get_config, small_config
from PIL import Image

from jssl import config as config_lib
from jssl import flags, main
from jssl.errors import UserError, WriteError
from jssl.run import batches, build, config_file, workdir
from jssl.run.train import train

PHOTOS = f"--config={ROOT}/configs/simclr_photos.py:smoke"
TRAIN = ["train", "--workdir=w", PHOTOS]


def jssl(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "jssl", *words], capture_output=True, text=True, cwd=cwd, timeout=200
    )
    return done.returncode, done.stdout, done.stderr


MISTAKES = [
    (["tran"], "Unknown command 'tran': did you mean 'train'?"),
    (
        ["train"],
        "--config is missing. Type --config=simclr_photos, or for your own pictures",
    ),
    (["train", PHOTOS], "--workdir is missing. Type --workdir=runs/NAME."),
    (["train", "--config=nope.py", "--workdir=w"], "There is no config file 'nope.py'"),
    ([*TRAIN, "--seed=3"], "jssl train has no flag --seed: type --config.seed=3."),
    ([*TRAIN, "--epochs", "3"], "found it with --config: type --config.epochs=3."),
    ([*TRAIN, "--seed=3", "--batch=64"], "no flag --batch: type --config.batch_size=64."),
    ([*TRAIN, "--lr=3"], "type --config.optim.lr=3"),
    ([*TRAIN, "--data-dir=x"], "type --config.data.data_dir=x"),
    ([*TRAIN, "--wrkdir=w"], "has no flag --wrkdir: did you mean 'workdir'?"),
    ([*TRAIN, "--protocol=knn"], "no flag --protocol; it belongs to jssl evaluate"),
    ([*TRAIN, "more"], "Unexpected word 'more' after 'jssl train'"),
    ([*TRAIN[:-1], f"{PHOTOS},epoch=3"], "Unknown switch ':epoch': did you mean 'epochs'?"),
    ([*TRAIN, "--config.optim.lrr=1"], "--config.optim.lrr: did you mean 'lr'?"),
    ([*TRAIN, "--config.batch-size=8"], "did you mean --config.batch_size?"),
    ([*TRAIN, "--config.lr=8"], "did you mean --config.optim.lr?"),
    ([*TRAIN, "--config.optim.lr=x"], "--config.optim.lr expects a number, found 'x'"),
    ([*TRAIN, "--config.seed=1.5"], "--config.seed expects a whole number, found '1.5'"),
    ([*TRAIN, "--config.optim=1"], "names a section: type one of its keys"),
    ([*TRAIN, "--config.seed.x=1"], "'seed' has no keys"),
    ([*TRAIN, "--config.method=byol"], "--config.method cannot be set"),
    ([*TRAIN, "--config.preset=v2"], "--config.preset cannot be set"),
    ([*TRAIN, "--config.run.total_steps=9"], "--config.run.total_steps cannot be set"),
    ([*TRAIN, "--processes=x"], "argument --processes: invalid int value: 'x'"),
    (["evaluate"], "--workdir is missing"),
    (["evaluate", "--workdir=nowhere"], "is not the workdir of a run"),
    (["evaluate", "--workdir=w", "--split=test"], "no flag --split; it belongs to jssl embed"),
    (["evaluate", "--workdir=w", "--config.seed=1"], "takes no --config.seed: a run keeps"),
    (["evaluate", "--workdir=w", "--protocol=kn"], "Unknown protocol 'kn': did you mean 'knn'?"),
    (["evaluate", "--workdir=w", "--protocol=logistic", "--k=3"], "--k has no effect on"),
    (["evaluate", "--workdir=w", "--protocol=knn", "--epochs=3"], "--epochs has no effect on"),
    (["evaluate", "--workdir=w", "--k=0"], "--k expects 1 or more, found 0"),
    (["evaluate", "--workdir=w", "--seed=-1"], "--seed expects 0 or more, found -1"),
    (["evaluate", "--workdir=w", "--temperature=0"], "--temperature expects a number above 0"),
    (["evaluate", "--workdir=w", "--protocol=layers", "--epochs=0.5"], "takes whole epochs"),
    (["embed", "--workdir=w"], "--output is missing"),
    (["embed", "--workdir=w", "--k=3"], "no flag --k; it belongs to jssl evaluate"),
    (
        ["compile", "--workdir=w"],
        "no flag --workdir; it belongs to jssl train, jssl sweep, jssl import",
    ),
    (["fit", "--seed=3", PHOTOS], "jssl compile has no flag --seed: type --config.seed=3."),
]


@pytest.mark.parametrize(
    ("words", "said"), MISTAKES, ids=[" ".join(words)[-25:] for words, _ in MISTAKES]
)
def test_mistakes_are_refused_before_anything_is_read(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main.main(words)
    assert said in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_mistake_ends_with_one_message_and_status_2(tmp_path):
    status, _, error = jssl(*TRAIN, "--seed=3", cwd=tmp_path)
    assert (status, error) == (2, "jssl: jssl train has no flag --seed: type --config.seed=3.\n")


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("embed", "Type --config.data.name=folder.", "Type --source=folder."),
        ("embed", "Type --config.data.on_error=skip.", "Type --on_error=skip."),
        ("evaluate", "Type --config.data.data_dir=D.", "Type --data_dir=D."),
        ("evaluate", "--k expects 1 or more.", "--k expects 1 or more."),
        ("evaluate", "Type --config.data.layout=flat.", "takes no --config flag: these are"),
        ("export", "Type --config.data.name=x.", "`jssl export` takes no --config flag"),
        ("train", "k is too large. Type --k=5.", "Type --config.monitor.knn_k=5."),
        ("train", "Type --feature=backbone.", "Type --config.monitor.knn_feature=backbone."),
        (
            "train",
            "Type --config.optim.lr=1 and --workdir=DIR.",
            "--config.optim.lr=1 and --workdir",
        ),
    ],
)
def test_advice_names_flags_that_the_command_takes(command, message, said):
    assert said in flags.advice_for(command, message)


def test_the_commands_are_listed(capsys):
    for words in ([], ["--help"], ["--helpfull"]):
        main.main(words)
        out = capsys.readouterr().out
        for command in flags.COMMANDS:
            assert f"jssl {command}" in out


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_each_command_has_its_own_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main.main([command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: jssl {command}" in out
    for flag, options in flags.COMMANDS[command].flags.items():
        assert (options["metavar"] if options.get("positional") else f"--{flag}") in out
    assert ("--config.KEY=VALUE" in out) == flags.COMMANDS[command].config


def test_the_version_has_the_commit_of_jssl(capsys):
    main.main(["--version"])
    assert re.fullmatch(r"jssl \d+\.\d+\.\d+ \(commit (unknown|\w+(-dirty)?)\)\n",
                        capsys.readouterr().out)  # fmt: skip


def test_config_prints_every_setting_and_where_it_comes_from(capsys):
    file = f"--config={ROOT}/configs/simclr_photos.py:smoke"
    main.main(["config", file, "--config.seed=7", "--config.augment.options.gray_p=0.1"])
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split("  # ") for line in lines)
    settings = {key.strip(): origin for key, origin in shown.items()}
    assert settings["seed = 7"] == settings["augment.options.gray_p = 0.1"] == "command line"
    assert settings["batch_size = 16"] == "config file"
    assert settings["augment.size = 32"] == "preset cifar"
    assert settings["dtype = 'float32'"] == "default"
    assert settings["augment.options.scale = None"] == "recipe simclr_cifar: (0.08, 1.0)"
    config = build.build(config_file.load(f"{ROOT}/configs/simclr_photos.py:smoke")).config
    assert len(lines) == len(config_lib.flatten(config))


def test_old_spellings_of_flags():
    """As absl took them: one dash, a value after a blank, a negated bool, `fit`."""
    made = flags.parse("train", ["-workdir=w", "--config", "a b.py", "--nodistributed"])
    assert (made.workdir, made.config, made.distributed) == ("w", "a b.py", False)
    assert flags.parse("train", ["--distributed"]).distributed
    assert flags.parse("train", ["--distributed=false"]).distributed is False
    settings = ["--config.optim.lr", "-1", "--noconfig.log.tensorboard", "--config.beit.exact"]
    assert flags.parse("train", settings).settings == [
        ("optim.lr", "-1"),
        ("log.tensorboard", "False"),
        ("beit.exact", "True"),
    ]
    assert flags.ALIASES["fit"] == "compile"


def refused(config, folder="unused"):
    with pytest.raises(UserError) as error:
        train(config, folder)
    return str(error.value)


def test_unknown_method(tmp_path):
    config = small_config("simclr")
    config.method = "simlcr"
    assert "Unknown method 'simlcr': did you mean 'simclr'?" in refused(config)


def test_batch_not_divisible_by_devices():
    config = small_config("simclr", batch_size=18, launch="pmap")
    message = refused(config)
    assert "Global batch size 18 cannot be split over 4 devices" in message
    assert "Type --config.batch_size=16 or --config.batch_size=20" in message


def test_batch_larger_than_the_data():
    config = small_config("simclr", batch_size=4000, launch="jit")
    assert "4000 is larger than the 3200 training examples of 'photos'" in refused(config)


def test_data_set_that_was_not_prepared(tmp_path):
    config = get_config("simclr_cifar")
    config.data.data_dir = str(tmp_path)
    message = refused(config)
    assert f"python -m jssl.data.prepare cifar10 --data_dir={tmp_path}" in message


def test_supervised_needs_labels(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    config = small_config("supervised", batch_size=4)
    config.supervised.num_classes = 0
    config.data.name, config.data.data_dir = "folder", str(tmp_path)
    assert "needs labels" in refused(config)


def test_labels_outside_the_classes_are_refused_with_their_example():
    batch = {"label": np.array([0, 3, -1]), "index": np.array([7, 8, 9])}
    with pytest.raises(UserError, match="'mine', example 9: label -1, expected 0 to 3"):
        batches.check_labels(batch, 4, name="mine")
    with pytest.raises(UserError, match="example 8: label 3, expected 0 to 2"):
        batches.check_labels({**batch, "label": np.array([0, 3, 1])}, 3, name="mine")
    with pytest.raises(UserError, match=r"labels of shape \[2\] for each picture"):
        batches.check_labels({**batch, "label": np.zeros((3, 2), int)}, 4, name="mine")
    batches.check_labels(batch | {"label": np.array([0, 1, 2])}, 3, name="mine")


def test_fewer_classes_than_the_data_has():
    config = small_config("supervised")
    config.supervised.num_classes = 10
    assert "num_classes=10, but data set 'photos' has 16 classes" in refused(config)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(small_config("simclr"), tmp_path / "file" / "run")
    assert "cannot be written" in message
    assert "Type --workdir=DIR" in message


@pytest.mark.parametrize("address", ["gs://b/run", Path("gs://b/run"), "s3://b/run"])
def test_a_workdir_that_is_a_url(address):
    with pytest.raises(UserError, match="--workdir=/mnt/b/run"):
        workdir.open_workdir(address, small_config("simclr"))
    with pytest.raises(UserError, match="is a URL"):
        workdir.read_config(address)
    assert not Path("gs:").exists()


@pytest.mark.parametrize("told_as", ["an errno", "words"])
def test_a_full_disk_is_reported_with_the_last_complete_step(tmp_path, told_as):
    for name in ("20", "100", "120.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    message = (
        rf"under {tmp_path}: No space left on device\. .* complete checkpoint is of step 100\."
    )
    with pytest.raises(WriteError, match=message), workdir.write_errors(tmp_path):
        try:
            if told_as == "words":
                raise ValueError(
                    "RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]"
                )
            with open("/dev/full", "w") as full:
                full.write("x")
        except (OSError, ValueError) as error:
            raise RuntimeError("the writer ended") from error


def test_other_errors_pass_as_they_are(tmp_path):
    for error in (UserError("No space left on device"), KeyError("x"), FileNotFoundError(2, "x")):
        with pytest.raises(type(error)) as caught, workdir.write_errors(tmp_path):
            raise error
        assert caught.value is error


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path):
    config = small_config("simclr")
    workdir.open_workdir(tmp_path, config)
    config.launch, config.log.every_steps, config.max_steps = "jit", 7, 9  # these may change
    config.data.on_error = "skip"  # and what a run that stopped at a picture is told to type
    workdir.open_workdir(tmp_path, config)
    config.optim.lr = 0.25
    temperature, config.simclr.temperature = config.simclr.temperature, 0.9
    with pytest.raises(UserError) as error:
        workdir.open_workdir(tmp_path, config)
    message = str(error.value)
    assert "holds a run of another config" in message
    assert f"simclr.temperature: {temperature} -> 0.9" in message
    assert "optim.lr: " in message
    assert "launch" not in message


def test_every_run_writes_its_records(tmp_path):
    config = small_config("simclr", launch="jit", max_steps=2)
    train(config, tmp_path)
    found = {p.name for p in tmp_path.iterdir()}
    assert {"config.json", "versions.json", "parameters.txt", "metrics.jsonl"} <= found
    assert {"checkpoints", "tensorboard"} <= found
    assert workdir.read_config(tmp_path).optim.lr == config.optim.lr
    table = (tmp_path / "parameters.txt").read_text()
    assert "projector" in table
    assert "total" in table
    text = (tmp_path / "versions.json").read_text()
    for word in ("jax", "git", "python", "devices"):
        assert word in text


def test_help_does_not_depend_on_an_accelerator(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(
        [sys.executable, "-m", "jssl"], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0
