"""A run that is not finite: what it keeps, what it says, and how it goes on."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import begun, small_config

from jssl import data, flags
from jssl.errors import NotFiniteError, UserError
from jssl.run import build, checkpoint, not_finite
from jssl.run.train import train

COMMAND = ["jssl", "train", "--config=c.py:smoke", "--workdir", "run", "--config.optim.lr=1e30",
           "--config.max_steps=6"]  # fmt: skip


def config_of(**updates):
    config = small_config("supervised", launch="jit", max_steps=6)
    config.checkpoint.every_steps = 100
    config.monitor.every_epochs = 0.0
    config.optim.update({"lr": 1e30, "lr_scaling": "none", "warmup_epochs": 0.0})
    config.log.tensorboard = False
    config.update(updates)
    return config


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The workdir of a run that stopped, and what it said."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", COMMAND)
        with pytest.raises(NotFiniteError) as error:
            train(config_of(), folder)
    return folder, str(error.value)


@pytest.fixture
def run(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    return tmp_path / "run"


def test_it_stops_and_keeps_the_last_good_state(stopped):
    folder, message = stopped
    assert "is not finite at step 1" in message  # the update of step 0 threw the weights away
    parts = build.build(config_of())
    batches = data.train_batches(parts.train_source, batch_size=16, seed=0)
    first, second = next(batches), next(batches)
    assert ", ".join(map(str, second["index"].tolist())) in message
    assert ", ".join(map(str, first["index"].tolist())) not in message
    assert int(build.load_encoder(folder)[1].step) == 1


def test_the_suggested_command_works(stopped, tmp_path):
    folder, message = stopped
    (line,) = [line.strip() for line in message.splitlines() if line.startswith("  jssl")]
    assert line == (
        f"jssl train --config=c.py:smoke --config.max_steps=6 --workdir={folder}-2 "
        f"--config.optim.lr=5e+29 --config.init_from={folder}:1"
    )
    found = flags.parse("train", line.split()[2:])
    config = config_of(init_from=dict(found.settings)["init_from"])
    state = begun(config, tmp_path / "new")
    kept = build.load_encoder(folder)[1]
    for name, tree in kept.params.items():  # of the same classes: the classifier too
        for a, b in zip(jax.tree.leaves(state.params[name]), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_same_command_stops_at_once_with_the_same_message(run, stopped, monkeypatch):
    monkeypatch.setattr(build, "init_state", None)
    monkeypatch.setattr(checkpoint.Checkpoints, "restore", None)  # nothing is read or trained
    with pytest.raises(NotFiniteError) as error:
        train(config_of(), run)
    said = str(error.value)
    assert stopped[1] in said and f"delete {run / 'not_finite.json'}" in said
    config = config_of()
    config.log.every_steps = 3  # which cannot change it
    with pytest.raises(NotFiniteError, match="nothing has changed"):
        train(config, run)


def test_an_allowed_change_continues_the_run(run):
    """A picture that is passed over, fewer steps, a deleted marker: none is kept from trying."""
    for key, value in (("data.on_error", "skip"), ("max_steps", 1), ("launch", "pmap")):
        config = config_of()
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
        not_finite.check(run, build.build(config).config)
    with pytest.raises(NotFiniteError):
        not_finite.check(run, build.build(config_of()).config)
    assert int(train(config_of(max_steps=1), run).step) == 1
    assert not (run / "not_finite.json").exists()


def test_another_learning_rate_in_the_same_workdir_is_refused(run):
    config = config_of()
    config.optim.lr = 0.1
    with pytest.raises(UserError, match="optim.lr: 1e.30 -> 0.1"):
        train(config, run)
    assert (run / "not_finite.json").exists()


def test_a_monitor_with_broken_features_tells_how_to_continue(tmp_path):
    """The step that was monitored is broken: the state before it is the good one."""
    config = config_of()
    config.optim.lr = 0.0
    config.monitor.every_epochs = 1e-6
    config.max_steps = 1
    train(config, tmp_path / "run")
    parts = build.build(config)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path / "run", method="supervised")) as saved:
        state, data_state = saved.restore(build.abstract_state(parts))
        broken = jax.tree.map(lambda x: x * np.float32(1e30), state.params)
        broken = state.replace(params=broken, step=state.step + 1)
        saved.save(2, broken, {**data_state, "next_step": 2})
    config.max_steps = 2
    with pytest.raises(NotFiniteError) as error:
        train(config, tmp_path / "run")
    said = str(error.value)
    assert f"--config.init_from={tmp_path / 'run'}:1" in said and "--step" not in said
    with pytest.raises(NotFiniteError, match="nothing has changed"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--workdir=a", "--extend", "--config.seed=1"], ["--config.seed=1"]),
        (["-workdir", "a", "--config.init_from", "b", "--config=c.py"], ["--config=c.py"]),
        (["--config.supervised.init_from=b", "--distributed"], ["--distributed"]),
    ],
)
def test_flags_that_the_advice_replaces(words, left):
    assert not_finite._without(["jssl", "train", *words]) == ["jssl", "train", *left]


def test_the_new_workdir_is_a_free_name(tmp_path):
    (tmp_path / "run-2").mkdir()
    said = not_finite.advice(tmp_path / "run", config_of(), good=None)
    assert f"--workdir={tmp_path / 'run-3'}" in said
    assert "No good state is kept" in said and "init_from" not in said
    lost = not_finite.advice(tmp_path / "run", config_of(init_from="runs/a:7"), good=0)
    assert "Type --config.init_from=runs/a:N with an earlier step" in lost
    (tmp_path / "stages.json").write_text(json.dumps([]))
    assert "It is a stage of" in not_finite.advice(Path(tmp_path / "run"), config_of(), good=1)
