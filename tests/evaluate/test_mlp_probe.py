"""The multilayer perceptron on cached features: what a linear classifier cannot, and by whom."""

import jax
import numpy as np
import pytest
from helpers import small_config, stored_run

from jssl import data, evaluate, losses
from jssl.errors import UserError
from jssl.evaluate.probes import mlp as probe
from jssl.evaluate.probes.mlp import fit_mlp, hidden_of
from jssl.evaluate.probes.softmax_regression import fit_linear, linear_accuracy


def parity(count, seed=0, D=6):
    """The label is whether an even number of the first two features is positive."""
    x = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int32)


def score(fit, x, y):
    return linear_accuracy(fit.mlp.head, hidden_of(fit.mlp, x), y)["top1"]


def test_it_finds_what_no_linear_classifier_does():
    (x, y), (test_x, test_y) = parity(2048), parity(1024, seed=1)
    linear = fit_linear(x, y, num_classes=2, epochs=20).head
    assert linear_accuracy(linear, test_x, test_y)["top1"] < 0.6
    fit = fit_mlp(x, y, num_classes=2, hidden=(64, 64), epochs=20, learning_rate=0.01)
    assert score(fit, test_x, test_y) > 0.9
    assert fit.losses[0] > 1.5 * fit.losses[-1]  # with dropout, which the score is without


def test_the_standardisation_is_folded_into_the_first_layer():
    """Scale and mean of the features do not matter, and a constant one neither."""
    x, y = parity(512)
    moved = np.concatenate([x * 100.0 + 7.0, np.full((512, 1), 3.0, np.float32)], axis=1)
    plain = np.concatenate([x, np.zeros((512, 1), np.float32)], axis=1)
    one, other = (fit_mlp(z, y, num_classes=2, hidden=(32,), epochs=5).mlp for z in (plain, moved))
    np.testing.assert_allclose(hidden_of(one, plain), hidden_of(other, moved), atol=2e-3)


def test_the_forward_pass_is_numpys():
    x, y = parity(64)
    mlp = fit_mlp(x, y, num_classes=2, hidden=(8, 5), epochs=2, batch_size=16).mlp
    assert [layer.kernel.shape for layer in (*mlp.hidden, mlp.head)] == [(6, 8), (8, 5), (5, 2)]
    h = x.astype(np.float64)
    for layer in mlp.hidden:
        h = np.maximum(h @ np.asarray(layer.kernel) + np.asarray(layer.bias), 0)
    np.testing.assert_allclose(hidden_of(mlp, x), h, atol=1e-5)


def test_the_first_loss_is_ln_k_and_the_seed_is_the_only_chance():
    x, y = parity(64)
    run = {"num_classes": 4, "hidden": (16,), "epochs": 3}
    fits = [fit_mlp(x, y, seed=seed, **run) for seed in (0, 0, 1)]
    assert fits[0].losses[0] == pytest.approx(np.log(4), rel=1e-5)  # one batch, zero logits
    np.testing.assert_array_equal(fits[0].losses, fits[1].losses)
    assert (fits[0].losses[1:] != fits[2].losses[1:]).all()


def test_dropout_leaves_out_that_share_and_keeps_the_mean(monkeypatch):
    mlp = probe.MLP(
        (evaluate.LinearHead(np.zeros((1, 4000), np.float32), np.ones(4000, np.float32)),),
        evaluate.LinearHead(np.eye(4000, 2, dtype=np.float32), np.zeros(2, np.float32)),
    )
    seen = []
    monkeypatch.setattr(
        losses, "cross_entropy", lambda logits, labels: seen.append(logits) or logits[:, 0]
    )
    wide = mlp._replace(head=evaluate.LinearHead(np.eye(4000, dtype=np.float32), np.zeros(4000)))
    probe._loss(wide, np.zeros((1, 1), np.float32), np.zeros(1, int), [jax.random.key(0)], 0.25)
    (logits,) = seen
    assert np.mean(np.asarray(logits) == 0) == pytest.approx(0.25, abs=0.02)
    assert np.mean(logits) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"epochs": 0}, UserError, "found epochs=0"),
        ({"hidden": ()}, ValueError, "found ()"),
        ({"learning_rate": 1e38}, UserError, "diverged at a learning rate of 1e+38"),
    ],
)
def test_what_cannot_be_fitted_is_said(change, error, said):
    x, y = parity(32)
    with pytest.raises(error) as raised:
        fit_mlp(x, y, **{"num_classes": 2, "hidden": (8,), "epochs": 3} | change)
    assert said in str(raised.value)


def test_the_protocol_on_a_named_intermediate(tmp_path, monkeypatch):
    """Trained, untrained and raw pixels; the features are those of the map that was named."""
    config = small_config("supervised", launch="jit", max_steps=1)
    config.supervised.num_classes = 16
    stored_run(config, tmp_path / "run", data.photos_source("test").images[:64])
    settings = evaluate.Settings(feature="block_group1", epochs=1, limit=32)
    found = {}

    def fit(x, y, **options):
        found[x.shape[1]] = options
        return fit_mlp(x, y, **options | {"hidden": (8,)})

    monkeypatch.setattr("jssl.evaluate.protocols.mlp.fit_mlp", fit)
    (row,) = evaluate.evaluate_run(tmp_path / "run", protocols=["mlp"], settings=settings)
    assert list(row["numbers"]) == ["trained", "untrained", "raw pixels"]
    numbers = row["numbers"]
    assert numbers["untrained"]["feature"] == "untrained block_group1"
    assert numbers["trained"]["dim"] == numbers["untrained"]["dim"] != 3072
    assert numbers["raw pixels"]["dim"] == 3072
    assert all(options["epochs"] == 1 for options in found.values()) and len(found) == 2
    for words in ("hidden layers of 1,024 and 1,024 units", "all fixed beforehand", "1 epochs"):
        assert words in row["protocol"]
    with pytest.raises(UserError, match="mlp takes whole epochs"):
        evaluate.check_settings(["mlp"], {"epochs": 0.5})
