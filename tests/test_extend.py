"""`--extend`: the run that goes on is the one that had its length from the start."""

import json
import shutil

import numpy as np
import pytest
from helpers import small_config

from jssl import main, optim
from jssl.errors import UserError
from jssl.run import build, extend, workdir
from jssl.run.judge import train_and_judge
from jssl.run.train import train
from jssl.state import cosine_momentum

STEPS = 4  # in an epoch


def config_of(epochs, method="byol"):
    config = small_config(method, launch="jit", epochs=epochs, max_steps=0)
    config.data.name, config.data.num_examples, config.augment.size = "synthetic", 64, 16
    config.model.stage_sizes, config.model.width = (1,), 0.0625
    config.monitor.every_epochs, config.final.linear_epochs = 0.0, 1
    config.log.tensorboard = False
    config.optim.lr, config.optim.warmup_epochs = 1e-3, 0.0
    return config


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if "learning_rate" in row}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch with its table."""
    folder = tmp_path_factory.mktemp("extended") / "run"
    train_and_judge(config_of(1.0), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_an_extended_run_follows_the_longer_schedule(run, capsys):
    """Learning rate and EMA momentum step by step; it ends at the right step with a new table."""
    before = json.loads((run / "result.json").read_text())
    capsys.readouterr()
    train_and_judge(config_of(2.0), run, longer=True)
    total, rows = 2 * STEPS, rows_of(run)
    assert sorted(rows) == list(range(1, total + 1))
    for step in range(total):
        length = STEPS if step < STEPS else total
        rate = 0.5e-3 * (1 + np.cos(np.pi * step / length)) * config_of(1.0).batch_size / 256
        if config_of(1.0).optim.lr_scaling == "none":
            rate *= 256 / config_of(1.0).batch_size
        np.testing.assert_allclose(rows[step + 1]["learning_rate"], rate, rtol=1e-5, atol=1e-12)
        tau = 1 - (1 - config_of(1.0).byol.ema_momentum) * (1 + np.cos(np.pi * step / length)) / 2
        np.testing.assert_allclose(rows[step + 1]["ema_momentum"], tau, rtol=1e-6)
    after = json.loads((run / "result.json").read_text())
    assert (before["steps"], after["steps"]) == (STEPS, total)
    assert workdir.read_config(run).epochs == 2.0
    assert workdir.read_config(run).run.total_steps == total
    said = "".join(capsys.readouterr())
    line = next(line for line in said.splitlines() if line.startswith("extended"))
    assert "from 1 to 2 epochs (4 -> 8 steps): from step 4 on" in line
    half = rows[STEPS + 1]
    assert f"learning rate 0 -> {half['learning_rate']:.6g}" in line
    assert f"ema_momentum 1 -> {half['ema_momentum']:.6g}" in line
    assert "resumed at step 4" in said
    (record,) = json.loads((run / "extended.json").read_text())
    assert (record["step"], record["epochs"], record["steps"]) == (4, [1.0, 2.0], [4, 8])


def test_the_schedules_are_those_of_every_method(tmp_path):
    """What the line says of MoCo v3 and the dVAE, by the formulas of their papers."""
    for method, wanted in (
        ("moco_v3", {"ema_momentum": float(cosine_momentum(2, base=0.99, total_steps=8))}),
        ("dvae", {"beta": None, "temperature": None}),
    ):
        config = small_config(method)
        config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 8})
        if method == "moco_v3":
            config.moco_v3.ema_momentum = 0.99
        if method == "dvae":
            config.dvae.update({"beta": 3.0, "beta_share": 0.5, "temperature": (1.0, 0.5)})
            config.dvae.temperature_share = 0.5
            wanted = {"beta": 3.0 * 2 / 4, "temperature": 0.75}
        found = {k: float(f(2)) for k, f in extend._schedules(config).items()}
        rate = found.pop("learning rate")
        _, schedule = optim.build(
            config.optim, batch_size=config.batch_size, steps_per_epoch=4, total_steps=8
        )
        assert rate == float(schedule(2))
        assert found == pytest.approx(wanted)


def test_a_stopped_extension_resumes_by_the_same_command(run):
    config = config_of(2.0)
    config.max_steps = 5
    config.final.enabled = False
    assert int(train(config, run, longer=True).step) == 5
    assert json.loads((run / "result.json").read_text())["steps"] == STEPS  # kept until the next
    config = config_of(2.0)
    assert int(train(config, run, longer=True).step) == 2 * STEPS
    assert len(json.loads((run / "extended.json").read_text())) == 1
    assert int(train(config_of(2.0), run).step) == 2 * STEPS


def refused(config, folder, **how):
    before = sorted(p.name for p in folder.rglob("*")) if folder.exists() else None
    with pytest.raises(UserError) as error:
        train(config, folder, **how)
    after = sorted(p.name for p in folder.rglob("*") if p.name != "lock.json")
    assert before is None or [n for n in before if n != "lock.json"] == after
    return str(error.value)


def test_invalid_extensions_are_refused(run, tmp_path):
    said = refused(config_of(2.0), run)
    assert "epochs: 1.0 -> 2.0" in said and "add --extend" in said
    for epochs in (1.0, 0.5):
        said = refused(config_of(epochs), run, longer=True)
        assert "has one of 1 epochs (4 steps)" in said and "N above 1." in said
    config = config_of(2.0)
    config.optim.lr = 0.5
    said = refused(config, run, longer=True)
    assert "  optim.lr: 0.001 -> 0.5\n" in said and "epochs" not in said
    config = config_of(2.0)
    config.max_steps = STEPS
    assert "--extend would train nothing: the run is at step 4" in refused(config, run, longer=True)
    said = refused(config_of(2.0), tmp_path / "none", longer=True)
    assert "has no checkpoint" in said and not (tmp_path / "none").exists()
    assert workdir.read_config(run).epochs == 1.0


def test_stages_refuse_extend(tmp_path, monkeypatch):
    from helpers import ROOT

    monkeypatch.chdir(tmp_path)
    words = [f"--config={ROOT}/configs/noisy_student_photos.py:smoke", "--workdir=run", "--extend"]
    with pytest.raises(UserError, match="this config has several stages"):
        main.main(["train", *words])
    assert not any(tmp_path.iterdir())


def test_a_method_without_its_own_schedules_reports_the_rate():
    config = config_of(1.0, "simclr")
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 4})
    assert list(extend._schedules(config)) == ["learning rate"]
    assert build.make_method(config, axis_name=None)[1](0) == extend._schedules(config)[
        "learning rate"
    ](0)
