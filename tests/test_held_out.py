"""Held-out training examples, the best checkpoint, and a loop of one's own around a run."""

import json

import jax
import numpy as np
import pytest
from helpers import small_config
from ml_collections import ConfigDict

from jssl import data
from jssl.data.sources import digits_source
from jssl.errors import UserError
from jssl.evaluate.run import evaluate_run
from jssl.run import best, build, checkpoint
from jssl.run.train import train

HELD_OUT = 160


def config_of(method="supervised", **values):
    config = small_config(method, launch="jit", max_steps=4)
    config.data.held_out = HELD_OUT
    config.monitor.every_epochs = 1e-3  # after each update
    config.update(values)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four updates, the calls of its hook, and its folder."""
    folder, calls = tmp_path_factory.mktemp("run") / "a", []
    state = train(config_of(), folder, on_step=lambda step, metrics: calls.append((step, metrics)))
    return folder, calls, state


def test_held_out_examples_are_not_trained_with():
    parts = build.build(config_of())
    train_rows, held = set(parts.train_source.rows), set(parts.held_out.rows)
    assert len(held) == HELD_OUT and not train_rows & held
    assert len(train_rows) + len(held) == 3200
    assert set(parts.probe_source.rows) == train_rows
    assert np.bincount(data.labels_of(parts.held_out)).tolist() == [10] * 16
    assert parts.test_source.name == "photos"  # its test split is not the held-out part
    assert parts.config.run.num_examples == 3040


def test_without_labels_in_the_train_split_the_probe_split_loses_them():
    unlabelled = data.ArraySource("x", np.zeros((30, 8, 8, 3), np.uint8), [-1] * 30, num_classes=0)
    labelled = digits_source("train")
    train_part, probe, held = data.hold_out(unlabelled, labelled, 100)
    assert train_part is unlabelled and len(probe) == len(labelled) - 100 and len(held) == 100
    with pytest.raises(UserError, match="has no labels. Type --config.data.held_out=0"):
        data.hold_out(unlabelled, unlabelled, 5)


def test_a_second_kind_of_held_out_examples_is_refused():
    config = config_of()
    config.supervised.held_out = 32
    with pytest.raises(UserError, match=r"held_out=160 and --config.supervised.held_out=32"):
        build.build(config)


def test_the_best_state_is_kept_beside_the_last(run):
    folder, calls, _ = run
    scores = {step: metrics["held_out_top1"] for step, metrics in calls if "knn_top1" in metrics}
    assert sorted(scores) == [0, 1, 2, 3, 4]
    del scores[0]  # an untrained network is not kept
    record = json.loads((folder / "best" / "best.json").read_text())
    top = max(scores.values())
    assert record["held_out_top1"] == top
    assert record["step"] == min(step for step, score in scores.items() if score == top)
    assert "own classifier on 160 held-out training examples" in record["chosen_on"]
    saved = checkpoint.Checkpoints(folder / "best", method="supervised", read_only=True)
    assert saved.latest_step() == record["step"]
    saved.close()
    (row,) = evaluate_run(folder / "best", protocols=["classifier"])[:1]
    assert "test examples of photos" in row["protocol"]  # not the examples it was chosen on


def test_a_worse_state_is_not_kept(tmp_path):
    parts = build.build(config_of())
    state = build.init_state(parts)
    kept = best.Best(tmp_path, method="supervised", examples="x")
    (tmp_path / "config.json").write_text("{}")
    assert kept.offer(2, 0.5, state, {})
    assert not kept.offer(3, 0.5, state, {}) and not kept.offer(4, float("nan"), state, {})
    again = best.Best(tmp_path, method="supervised", examples="x")  # a second start
    assert not again.offer(5, 0.4, state, {})
    assert again.offer(6, 0.75, state, {})
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 6
    assert [p.name for p in (tmp_path / "best" / "checkpoints").glob("[0-9]*")] == ["6"]


def test_the_hook_is_called_after_each_update(run):
    _, calls, _ = run
    losses = [step for step, metrics in calls if "loss" in metrics]
    assert losses == [1, 2, 3, 4]
    assert all(isinstance(v, float) for _, metrics in calls for v in metrics.values())
    assert [step for step, metrics in calls if "monitor_seconds" in metrics] == [0, 1, 2, 3, 4]


def test_a_hook_that_raises_ends_the_run_and_nothing_is_lost(run, tmp_path):
    class EnoughError(Exception):
        pass

    def on_step(step, metrics):
        if step == 2:
            raise EnoughError

    config = config_of()
    config.monitor.every_epochs = 0.0
    with pytest.raises(EnoughError):
        train(config, tmp_path / "b", on_step=on_step)
    saved = checkpoint.Checkpoints(tmp_path / "b", method="supervised", read_only=True)
    assert saved.latest_step() in (2, 3)
    saved.close()
    resumed, whole = train(config, tmp_path / "b"), run[2]
    assert int(resumed.step) == 4
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_a_folder_without_a_test_split_is_judged_on_its_held_out_pictures(class_pictures):
    section = ConfigDict({**data.DEFAULTS, "name": "folder", "data_dir": str(class_pictures)})
    section.held_out = 4
    config = config_of()
    config.data.update(section)
    config.batch_size = 4
    parts = build.build(config)
    assert parts.test_source is parts.held_out and len(parts.held_out) == 4


@pytest.fixture
def class_pictures(tmp_path):
    """Two classes of eight pictures."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (40, 40), (i, 2 * i, 3 * i)).save(tmp_path / name / f"{i}.png")
    return tmp_path
