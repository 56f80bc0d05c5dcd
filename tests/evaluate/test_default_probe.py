"""The default probe of `jssl evaluate`, and warnings of rates that are too small."""

import numpy as np
import pytest
from helpers import small_config
from runs import finished_run

from jssl import optim
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate import fit_linear, linear_accuracy, run
from jssl.evaluate.probes import presets
from jssl.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished_run(small_config("byol", launch="jit"), tmp_path_factory.mktemp("r") / "run")


@pytest.mark.parametrize(
    ("flags", "large", "expected"),
    [
        ([], 10_000, ["knn", "logistic"]),
        ([], 3_200, ["knn", "linear"]),  # photos have 3,200
        (["--epochs=1"], 10_000, ["knn", "linear"]),
        (["--preset=simclr"], 10_000, ["knn", "linear"]),
        (["--protocol=default"], 3_201, ["knn", "logistic"]),
    ],
)
def test_the_rule(folder, monkeypatch, capsys, flags, large, expected):
    def stand_in(name):
        real = run.PROTOCOLS[name]
        return real.__class__(name, lambda context: [row(name)], real.needs, real.uses)

    def row(name):
        number = {"top1": 0.5, "ci95": [0.1, 0.9], "count": 2, "protocol": "toy", "feature": "x"}
        return {"probe": name, "protocol": "toy", "numbers": {"trained": number}}

    monkeypatch.setattr(run, "LARGE", large)
    monkeypatch.setattr(run, "PROTOCOLS", {name: stand_in(name) for name in run.PROTOCOLS})
    monkeypatch.setattr(run, "check_record", lambda record: None)
    main(["evaluate", f"--workdir={folder}", "--limit=2", *flags])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if " x  " in line] == expected
    rule = f"By default the linear probe is `logistic` below {large:,} train examples"
    assert (rule in said) == (flags in ([], ["--protocol=default"]))
    if rule in said:
        other = {"logistic": "linear", "linear": "logistic"}[expected[1]]
        assert f"has 3,200. The other one: --protocol={other}." in said.replace(
            "photos, dry run on 2 of 3,200 has", "has"
        )


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--protocol=default,knn"], "--protocol=default stands alone"),
        (["--preset=simclear"], "Unknown linear preset 'simclear': did you mean 'simclr'"),
        (["--protocol=defaults"], "did you mean 'default'"),
    ],
)
def test_mistakes(folder, flags, refused):
    with pytest.raises(UserError, match=refused):
        main(["evaluate", f"--workdir={folder}", *flags])


def test_a_small_sum_of_rates_is_warned_of_and_is_worse():
    """Averaged pixels of 300 photographs: the preset's rate by linear scaling, and a larger one."""
    (images, labels), (test_images, test_labels) = (photos.load(s, 32) for s in ("train", "test"))
    rows = np.arange(300) * 397 % len(images)

    def features(images):
        cells = images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
        return cells.reshape(len(images), -1).astype(np.float32) / 255

    def score(rate):
        fit = fit_linear(
            features(images[rows]),
            labels[rows],
            num_classes=16,
            epochs=90,
            batch_size=16,
            learning_rate=rate,
            standardize=False,
        )
        return linear_accuracy(fit.head, features(test_images), test_labels)["top1"]

    simclr = presets.PRESETS["simclr"]
    warning = presets.rate_warning(simclr, epochs=90, examples=300)
    assert "0.00625 for batches of 16 (linear scaling of 0.1), and sums to 5." in warning
    assert score(0.00625) < score(0.3) - 0.05
    assert presets.rate_warning(presets.PRESETS["moco"], epochs=100, examples=300) == ""
    assert presets.rate_warning(presets.PRESETS["beit"], epochs=100, examples=300) == ""
    assert presets.rate_warning(simclr, epochs=90 * 40, examples=300) == ""


@pytest.mark.parametrize(
    ("changes", "batch", "steps", "warned"),
    [
        ({"name": "sgd", "lr": 0.1}, 4, 100, "moves a weight by 0.789 times its gradient"),
        ({"name": "sgd", "lr": 0.1, "lr_scaling": "none"}, 4, 100, ""),
        ({"name": "sgd", "lr": 0.1}, 256, 10, ""),  # not made smaller
        ({"name": "sgd", "lr": 0.1}, 4, 100_000, ""),
        ({"name": "sgd", "lr": 0.0}, 4, 100, ""),
        ({"name": "lars", "lr": 0.3}, 16, 100, "moves a weight by 0.00947 of its norm"),
        ({"name": "lars", "lr": 0.3}, 16, 20_000, ""),
        ({"name": "adamw", "lr": 1e-3}, 8, 100, "moves a weight by 0.00158 in 100 steps"),
        ({"name": "adamw", "lr": 1e-3}, 128, 100, ""),
    ],
)
def test_a_rate_that_scaling_made_tiny(changes, batch, steps, warned):
    given = {"warmup_epochs": 0.0, **changes}
    _, schedule = optim.build(given, batch_size=batch, steps_per_epoch=10, total_steps=steps)
    warning = optim.rate_warning(given, schedule, batch_size=batch, total_steps=steps)
    assert bool(warning) == bool(warned) and warned in warning
    if warned:
        assert f"for batches of {batch} (linear scaling)" in warning
        assert "--config.optim.lr_scaling=none" in warning
