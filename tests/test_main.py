"""What a user sees: commands, mistakes caught before anything is compiled, and what to type."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, get_config, small_config
from PIL import Image

from jssl import experiment, workdir
from jssl.errors import UserError, WriteError
from jssl.train import train

PHOTOS = f"--config={ROOT}/configs/simclr_photos.py:smoke"


def jssl(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "jssl", *words], capture_output=True, text=True, cwd=cwd, timeout=200
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tran"], "Unknown command 'tran': did you mean 'train'?"),
        (["train"], "--config is missing. Type --config=configs/simclr_photos.py."),
        (["train", PHOTOS], "--workdir is missing. Type --workdir=runs/NAME."),
        (["train", "--config=nope.py", "--workdir=w"], "There is no config file 'nope.py'"),
        (["train", f"{PHOTOS},epoch=3"], "Unknown switch ':epoch': did you mean 'epochs'?"),
        (["train", PHOTOS, "--config.optim.lrr=1"], 'Did you mean "lr" instead of "lrr"?'),
        (["train", PHOTOS, "--config.optim.lr=x"], "could not convert string to float: 'x'"),
        (["train", PHOTOS, "--wrkdir=w"], "Unknown command line flag 'wrkdir'. Did you mean"),
        (["evaluate", "--workdir=nowhere"], "is not the workdir of a run"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[-25:],
)
def test_mistakes_end_with_one_message_and_status_2(words, said, tmp_path):
    status, _, error = jssl(*words, cwd=tmp_path)
    assert status == 2
    assert error.startswith("jssl: ")
    assert said in error
    assert "Traceback" not in error


def test_without_words_the_commands_are_listed(tmp_path):
    for words in ([], ["--help"]):
        status, out, _ = jssl(*words, cwd=tmp_path)
        assert status == 0
        for command in ("train", "evaluate", "embed", "export", "report"):
            assert f"jssl {command}" in out


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


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(small_config("simclr"), tmp_path / "file" / "run")
    assert "cannot be written" in message
    assert "Type --workdir=DIR" in message


@pytest.mark.parametrize("address", ["gs://b/run", Path("gs://b/run"), "s3://b/run"])
def test_a_workdir_that_is_an_address(address):
    with pytest.raises(UserError, match="--workdir=/mnt/b/run"):
        workdir.open_workdir(address, small_config("simclr"))
    with pytest.raises(UserError, match="is an address"):
        workdir.read_config(address)
    assert not Path("gs:").exists()


@pytest.mark.parametrize("told_as", ["an errno", "words"])
def test_a_disk_that_takes_no_more_is_said_with_the_last_whole_step(tmp_path, told_as):
    for name in ("20", "100", "120.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    message = rf"under {tmp_path}: No space left on device\. .* whole checkpoint is of step 100\."
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
    config.simclr.temperature = 0.9
    with pytest.raises(UserError) as error:
        workdir.open_workdir(tmp_path, config)
    message = str(error.value)
    assert "holds a run of another config" in message
    assert "simclr.temperature: 0.2 -> 0.9" in message
    assert "optim.lr: " in message
    assert "launch" not in message


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    config = small_config("supervised", launch="jit", max_steps=6)
    config.checkpoint.every_steps = 100
    config.monitor.every_epochs = 0.0
    config.optim.update({"lr": 1e30, "lr_scaling": "none", "warmup_epochs": 0.0})
    with pytest.raises(UserError) as error:
        train(config, tmp_path)
    message = str(error.value)
    assert "is not finite at step 1" in message  # the update of step 0 threw the weights away
    parts = experiment.build(config)
    from jssl import data

    batches = data.train_batches(parts.train_source, batch_size=16, seed=config.seed)
    first, second = next(batches), next(batches)
    assert ", ".join(map(str, second["index"].tolist())) in message
    assert ", ".join(map(str, first["index"].tolist())) not in message
    embed, state = experiment.load_encoder(tmp_path)
    assert int(state.step) == 1


def test_every_run_leaves_its_records(tmp_path):
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
