"""Workdirs of another version: what is absent has its default, what is unknown is named."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from helpers import ROOT, filled, small_config

from jssl import config as config_lib
from jssl import evaluate, methods
from jssl.errors import UserError
from jssl.run import build, checkpoint, versioned, workdir
from jssl.run.train import train

# Recorded by the code at 8795ffb: `jssl train` of configs/simclr_photos.py:smoke on 64 synthetic
# pictures, the net made tiny; the command is in its versions.json. From its config.json five keys
# were taken, as if they had been added since, and two were put in, as if they had been removed.
GOLDEN = ROOT / "tests" / "golden"
OLD = GOLDEN / "workdir_8795ffb"


@pytest.fixture
def old(tmp_path, monkeypatch):
    monkeypatch.setattr(versioned, "_told", set())
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("method", methods.names())
def test_the_defaults_are_the_whole_tree_of_a_config(method):
    preset = next(iter(config_lib.presets(method)))
    tree = json.loads(config_lib.base(method, preset=preset).to_json())

    def paths(node, path=""):
        if not isinstance(node, dict) or not node:
            return {path}
        return set().union(*(paths(value, f"{path}.{key}") for key, value in node.items()))

    assert paths(versioned.defaults(method)) == paths(tree)


def test_an_older_workdir_is_read(old, capsys):
    config = workdir.read_config(old)
    assert (config.simclr.loss_form, config.data.on_error) == ("official", "stop")
    assert config.monitor.rank_threshold == 2.0 and config.log.wandb_mode == "online"
    assert (config.model.width, config.simclr.proj_dim) == (0.0625, 8)
    workdir.read_config(old)
    said = capsys.readouterr().out
    assert said.count("model.gone=3") == said.count("gone={'a': 1}") == 1
    assert "keys that this version does not have" in said


def test_an_older_workdir_is_resumed_and_evaluated(old, capsys):
    config = workdir.read_config(old).unlock()
    config.max_steps = 3
    state = train(config, old)
    assert int(state.step) == 3
    said = "augmentation draws other random numbers"
    assert capsys.readouterr().out.count(said) == 1
    rows = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    recorded = (OLD / "metrics.jsonl").read_text().splitlines()
    assert rows[:2] == [json.loads(line) for line in recorded]
    assert np.isfinite(rows[2]["loss"])
    assert json.loads((old / "config.json").read_text())["data"]["on_error"] == "stop"
    assert json.loads((old / "versions.json").read_text())["schema"] == versioned.SCHEMA
    assert evaluate.evaluate_run(old, protocols=["knn"])[0]["probe"].startswith("kNN")
    config.max_steps = 4
    train(config, old)
    assert said not in capsys.readouterr().out  # the workdir has the new schema


def test_an_older_workdir_is_loaded(old):
    embed, state = build.load_encoder(old)
    features, _ = embed(state, np.zeros((2, 16, 16, 3), np.uint8))
    assert int(state.step) == 2 and features.shape[0] == 2


def test_only_a_key_whose_value_differs_is_refused(old):
    config = workdir.read_config(old).unlock()
    config.simclr.loss_form = "paper"  # the run did what the default does
    config.simclr.proj_dim = 8
    with pytest.raises(UserError) as error:
        train(config, old)
    listed = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert listed == ["  simclr.loss_form: official -> paper"]


def test_a_workdir_of_a_newer_schema_is_refused(old):
    config = workdir.read_config(old)
    found = json.loads((old / "versions.json").read_text())
    found.update({"schema": versioned.SCHEMA + 1, "libraries": {"jssl": "9.0"}})
    (old / "versions.json").write_text(json.dumps(found))
    for use in (workdir.read_config, lambda folder: workdir.open_workdir(folder, config)):
        with pytest.raises(UserError, match="schema 4, this version .* up to 3: .* version 9.0"):
            use(old)


def test_a_config_that_names_no_method_is_said(old):
    (old / "config.json").write_text('{"seed": 1}')
    with pytest.raises(UserError, match="it names no method"):
        workdir.read_config(old)


CLASSIFIERS = json.loads((GOLDEN / "classifier_leaves_schema2.json").read_text())


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_the_classifiers_of_older_checkpoints_have_their_place(method):
    """The leaves of every classifier, as version 2 of the schema named them."""
    config = small_config(method)
    made, _ = build.make_method(config, axis_name=None)
    state = jax.eval_shape(lambda: build.first_state(config, made, config.batch_size))
    names = [checkpoint.newer_name(name) for name in CLASSIFIERS[method]]
    assert len(set(names)) == len(names) and set(names) <= set(checkpoint.describe(state))


@pytest.mark.parametrize("method", ["deit", "deepcluster", "supervised"])
def test_a_checkpoint_with_the_older_names_of_classifiers_is_restored(method, tmp_path):
    config = small_config(method)
    made, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, made, config.batch_size))
    state = filled(shapes, 0)
    flat, older = checkpoint.flat_leaves, {checkpoint.newer_name(n): n for n in CLASSIFIERS[method]}
    with pytest.MonkeyPatch.context() as patch:
        renamed = lambda tree: {older.get(name, name): x for name, x in flat(tree).items()}  # noqa: E731
        patch.setattr(checkpoint, "flat_leaves", renamed)
        saved = checkpoint.Checkpoints(tmp_path, method=method)
        saved.save(1, state, {})
        saved.close()
    again = checkpoint.Checkpoints(tmp_path, method=method, read_only=True)
    restored, _ = again.restore(filled(shapes, 1000))
    again.close()
    assert any(".dense." in name for name in older.values())
    chex.assert_trees_all_equal(flat(restored), flat(state))
