"""`--protocol=voc2007_finetune`: the step by hand, the grid, the record, what is refused."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import shallow_config, small_config
from runs import finished_run
from voc_files import write_voc_2007

from jssl import evaluate
from jssl.data.voc import VocSource
from jssl.errors import UserError
from jssl.evaluate.probes import multilabel
from jssl.evaluate.probes import multilabel_finetune as probe
from jssl.flags import parse
from jssl.metrics.average_precision import mean_average_precision
from jssl.run import workdir

NAME = "voc2007_finetune"


class Pixels(nn.Module):
    """An encoder with one parameter for each channel, and batch normalisation."""

    @nn.compact
    def __call__(self, x, train):
        h = nn.Dense(4, name="dense")(jnp.mean(x, axis=(1, 2)))
        return nn.BatchNorm(not train, momentum=0.9, name="bn")(h), {}


@pytest.fixture(scope="module")
def toy():
    tuning = probe.make_tuning(Pixels(), lambda x: x, num_classes=3, size=8)
    drawn = Pixels().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    return tuning, drawn["params"], drawn["batch_stats"]


def test_two_steps_by_hand(toy):
    """v <- .9 v + g + wd / lr p; p <- p - lr (g + wd / lr p + .9 v), Nesterov's form of torch."""
    tuning, encoder, stats = toy
    params, batch_stats, momentum = tuning.first(jax.random.key(1), encoder, stats)
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 256, (4, 1, 1, 3), np.uint8), (4, 8, 8, 3))
    labels = np.array([[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])

    def loss_of(params):  # one colour each, so that no flip matters
        h = images[:, 0, 0] / 255 @ params["encoder"]["dense"]["kernel"]
        h = h + params["encoder"]["dense"]["bias"]
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
        h = h * params["encoder"]["bn"]["scale"] + params["encoder"]["bn"]["bias"]
        z = h @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        losses = optax.sigmoid_binary_cross_entropy(z, labels == 1)
        return jnp.sum(jnp.where(labels < 0, 0, losses)) / 4

    expected, v = params, jax.tree.map(jnp.zeros_like, params)
    for rate in (0.2, 0.1):
        with jax.numpy_rank_promotion("allow"):
            loss, gradient = jax.value_and_grad(loss_of)(expected)
        for group, layer in (("encoder", "dense"), ("", "classifier")):
            of = lambda tree, g=group, n=layer: tree[g][n] if g else tree[n]  # noqa: E731
            of(gradient)["kernel"] = of(gradient)["kernel"] + 0.5 * of(expected)["kernel"]
        v = jax.tree.map(lambda v, g: 0.9 * v + g, v, gradient)
        expected = jax.tree.map(
            lambda p, g, v, r=rate: p - r * (g + 0.9 * v), expected, gradient, v
        )
        params, batch_stats, momentum, found = tuning.step(
            params, batch_stats, momentum, images, labels, jax.random.key(2), rate, 0.5
        )
        assert float(found) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected)
    assert not np.allclose(batch_stats["encoder"]["bn"]["mean"], stats["bn"]["mean"])
    assert tuning.step._cache_size() == 1
    one = tuning.score(params, batch_stats, images)[0]
    other = np.array(images)
    other[1:] = 0
    np.testing.assert_allclose(tuning.score(params, batch_stats, other)[0], one, rtol=1e-5)


def test_the_grids_are_the_papers():
    trained, untrained = probe.GRIDS["trained"], probe.GRIDS["untrained"]
    assert (trained.steps, untrained.steps, probe.BATCH) == (20_000, 40_000, 256)
    np.testing.assert_allclose(trained.rates[::3], (1e-4, 10**-2.5, 0.1))
    assert (trained.decays[0], len(trained.decays)) == (0.0, 8)
    np.testing.assert_allclose((untrained.rates[0], untrained.rates[-1]), (1e-3, 1.0))
    np.testing.assert_allclose((untrained.decays[0], untrained.decays[-1]), (1e-5, 10**-1.5))
    assert (len(trained.rates), len(untrained.rates), len(untrained.decays)) == (7, 7, 8)


def test_a_training_that_diverges_is_left_out():
    scores = {(0.1, 0.0): 0.3, (0.1, 0.5): 0.6, (9.0, 0.0): None, (9.0, 0.5): None}
    chosen = probe.select(lambda *point: scores[point], (0.1, 9.0), (0.0, 0.5))
    assert chosen == (0.1, 0.5, 0.6)
    with pytest.raises(UserError, match="All 2 fine-tunings diverged. Type a smaller --lr"):
        probe.select(lambda *point: scores[point], (9.0,), (0.0, 0.5))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_voc_2007(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = shallow_config("simclr", launch="jit")
    config.augment.size = 16
    return finished_run(config, tmp_path_factory.mktemp("run"))


@pytest.fixture
def trainings(monkeypatch):
    """What was trained, and scored: (number of images, rate, decay, steps), and its scores."""
    kept, scored, real, score = [], [], probe.finetune, probe.scores_of

    def spied(tuning, params, stats, source, **options):
        kept.append((len(source), options["rate"], options["decay"], options["steps"]))
        return real(tuning, params, stats, source, **options)

    def spied_scores(*arguments):
        scored.append(score(*arguments))
        return scored[-1]

    monkeypatch.setattr(probe, "finetune", spied)
    monkeypatch.setattr(probe, "scores_of", spied_scores)
    monkeypatch.setattr(multilabel, "RESAMPLES", 20)
    return kept, scored


def test_the_grid_is_selected_on_validation_and_resumed(run, data_dir, trainings, monkeypatch):
    """A poisoned test split changes the numbers, and nothing that was selected."""
    kept, scored = trainings
    grids = {
        "trained": probe.Grid((0.01, 0.05), (0.0,), 2),
        "untrained": probe.Grid((0.05,), (0.0, 1e-4), 4),
    }
    monkeypatch.setattr(probe, "GRIDS", grids)
    settings = evaluate.Settings(data_dir=data_dir, seed=3)
    before = evaluate.backbone_hash(evaluate.Context.load(run, settings).state)
    (row,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    trained, untrained = row["numbers"]["trained"], row["numbers"]["untrained"]
    assert kept == [
        (12, 0.01, 0.0, 2), (12, 0.05, 0.0, 2), (24, trained["lr"], 0.0, 2),
        (12, 0.05, 0.0, 4), (12, 0.05, 1e-4, 4), (24, 0.05, untrained["wd"], 4),
    ]  # fmt: skip
    values = [
        mean_average_precision(x, y == 1, y == -1, definition="voc2007")[0] for x, y in scored
    ]
    assert trained["validation_map"] == max(values[:2]) and trained["value"] == values[2]
    assert trained["lr"] == (0.01, 0.05)[int(np.argmax(values[:2]))]
    assert untrained["value"] == values[5] and len(trained["average_precision"]) == 20
    assert "steps of batch 24" in trained["protocol"] and "selected from 2" in trained["protocol"]
    record = json.loads((run / "evaluation" / f"{NAME}.json").read_text())
    assert record["checkpoint"]["sha256"] == before and record["data"]["train_examples"] == 24

    kept.clear()
    encoded = VocSource.encoded

    def poisoned(self, index):
        example = encoded(self, index)
        wrong = np.roll(example["label"], 5)
        return {**example, "label": wrong} if len(self) == 12 and self._split == "test" else example

    monkeypatch.setattr(VocSource, "encoded", poisoned)
    (again,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert [count for count, *_ in kept] == [24, 24]  # the grid was not trained again
    number = again["numbers"]["trained"]
    assert (number["lr"], number["validation_map"]) == (trained["lr"], trained["validation_map"])
    assert number["average_precision"] != trained["average_precision"]


def test_one_point_from_the_command(run, data_dir, trainings):
    flags = parse("evaluate", [f"--workdir={run}", f"--protocol={NAME}", "--lr=0.01", "--wd=0"])
    assert (flags.lr, flags.wd) == (0.01, 0.0)
    settings = evaluate.Settings(data_dir=data_dir, lr=0.01, wd=0.0, epochs=1)
    (row,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert trainings[0] == [(24, 0.01, 0.0, 1), (24, 0.01, 0.0, 2)]
    assert "as typed, not selected" in row["numbers"]["trained"]["protocol"]
    assert "validation_map" not in row["numbers"]["trained"]


def test_a_dry_run_is_short(run, data_dir, trainings):
    settings = evaluate.Settings(data_dir=data_dir, limit=3)
    (row,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert [(count, steps) for count, *_, steps in trainings[0]] == [(3, 2)] * 3 + [(3, 4)] * 3
    assert row["numbers"]["trained"]["protocol"].startswith("DRY RUN on 3 pictures")
    files = [path.name for path in (run / "evaluation" / "dry_run" / NAME).iterdir()]
    assert len(files) == 4 and all("_limit_3.json" in name for name in files)


def test_what_lacks_is_named(run, data_dir, tmp_path):
    settings = evaluate.Settings(data_dir=data_dir)
    needs = evaluate.PROTOCOLS[NAME].needs
    assert needs(evaluate.Context.load(run, settings)) == "hours: ask for it by name"
    away = evaluate.Context.load(run, evaluate.Settings(data_dir=str(tmp_path)))
    assert "python -m jssl.data.prepare voc/2007" in needs(away)
    vit = workdir.open_workdir(tmp_path / "vit", small_config("deit"))
    with pytest.raises(UserError, match=f"'{NAME}' needs a ResNet, found model.name 'vit_tiny'"):
        evaluate.evaluate_run(vit, protocols=[NAME], settings=settings)
    for given, words in (
        ({"lr": 0.0}, "--lr expects a number above 0, found 0.0"),
        ({"wd": -1.0}, "--wd expects 0 or more, found -1.0"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate.check_settings([NAME], given)
    with pytest.raises(UserError, match="--lr has no effect on --protocol=voc"):
        evaluate.check_settings(["voc"], {"lr": 0.1})
