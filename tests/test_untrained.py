"""The untrained network at step 0: measured once, by the monitor, before the first update."""

import json
import re
import types

import pytest
from helpers import small_config
from test_metrics import read_events

from jssl.report import write_report
from jssl.report.curves import draw_curves
from jssl.run import judge, train

OWN = "the point at 0 is the network before the first update"
TABLE = "the white point at 0 is the untrained network"


def config_of(**values):
    config = small_config("simclr", launch="jit", max_steps=2)
    config.data.name, config.augment.size = "photos", 16
    config.model.stage_sizes, config.model.width = (1,), 0.0625
    config.monitor.every_epochs, config.monitor.max_examples = 1e-6, 64
    config.checkpoint.every_steps = 1
    config.final.enabled = False
    config.update(values)
    return config


def monitored(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if "monitor_seconds" in row}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two updates that is resumed for a third, and what its monitor was called with."""
    folder, states = tmp_path_factory.mktemp("untrained") / "run", []
    make = train.make_monitor

    def make_monitor(parts):
        monitor = make(parts)

        def recorded(state):
            states.append(int(state.step))
            scalars, _ = monitor(state)
            return scalars, [f"a warning of step {int(state.step)}"]

        return recorded

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("jssl.run.train.make_monitor", make_monitor)
        train.train(config_of(), folder)
        train.train(config_of(max_steps=3), folder)
    return folder, states


def test_it_is_measured_once_and_not_again_by_a_run_that_resumes(run):
    folder, states = run
    assert states == [0, 1, 2, 3] and sorted(monitored(folder)) == states
    assert 0 <= monitored(folder)[0]["knn_top1"] <= 1
    steps = [
        step
        for path in (folder / "tensorboard").iterdir()
        for step, tag, _ in read_events(
            types.SimpleNamespace(iterdir=lambda path=path: iter([path]))
        )
        if tag == "knn_top1"
    ]
    assert sorted(steps) == states


def test_it_is_the_number_of_the_same_protocol(run, tmp_path):
    """The untrained network of the table at the end, where both take the same pictures."""
    config = config_of(max_steps=1)
    config.monitor.max_examples = 10**6
    config.final.enabled, config.final.linear_epochs = True, 1
    judge.train_and_judge(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["rows"]
    (knn,) = [row for row in rows if row["probe"] == "kNN"]
    point = monitored(tmp_path / "run")[0]["knn_top1"]
    assert point == pytest.approx(knn["top1"]["untrained"], abs=1e-6)
    text = write_report(tmp_path / "run").read_text()
    assert OWN in text and TABLE not in text


def test_it_warns_of_no_collapse(tmp_path, capsys):
    config = config_of()
    config.monitor.std_threshold = 1e6  # every network is below it
    train.train(config, tmp_path / "run")
    said = capsys.readouterr()
    warnings = re.findall("(epoch [0-9.e-]+:|WARNING backbone)", said.out + said.err)
    first = warnings.index("WARNING backbone")
    assert warnings[0] == "epoch 0:" and warnings[1] != "WARNING backbone" and first > 1


def test_without_a_monitor_it_is_not_measured(tmp_path):
    config = config_of(max_steps=1)
    config.monitor.every_epochs = 0.0
    train.train(config, tmp_path / "run")
    assert not monitored(tmp_path / "run")


def test_the_curve_has_one_point_at_0():
    old = [{"step": 4, "knn_top1": 0.5}, {"step": 8, "knn_top1": 0.75}]
    new = [{"step": 0, "knn_top1": 0.25}, *old]
    for rows, said in ((old, TABLE), (new, OWN)):
        _, notes = draw_curves(rows, steps_per_epoch=4, untrained=0.25)
        assert len(notes) == 1 and said in notes[0]


def test_a_hook_that_ends_the_run_there_loses_nothing(tmp_path):
    def on_step(step, metrics):
        assert step == 0 and "knn_top1" in metrics
        raise KeyError

    with pytest.raises(KeyError):
        train.train(config_of(), tmp_path / "run", on_step=on_step)
    state = train.train(config_of(), tmp_path / "run")
    assert int(state.step) == 2 and sorted(monitored(tmp_path / "run")) == [0, 1, 2]
