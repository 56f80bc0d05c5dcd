"""The cached linear probe: against scipy's minimum, torch's recorded SGD, and its own promises."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from jssl.errors import UserError
from jssl.evaluate import LinearHead, fit_linear, linear_accuracy
from jssl.evaluate.probes import softmax_regression
from jssl.evaluate.probes.presets import PRESETS, LinearPreset, fitting_batch, preset_rate
from jssl.evaluate.probes.softmax_regression import sgd, sgd_step

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluate_torch.npz")


def overlapping(M=90, D=4, K=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(M) % K
    return rng.normal(size=(K, D))[labels] + rng.normal(size=(M, D)), labels


def minimum(x, y, K, decay):
    """Kernel and bias at the minimum of the module's objective, by L-BFGS in float64."""
    M, D = x.shape

    def objective(flat):
        w, b = flat[: D * K].reshape(D, K), flat[D * K :]
        logits = x @ w + b
        nll = np.mean(logsumexp(logits, axis=1) - logits[np.arange(M), y])
        return nll + decay / 2 * np.sum(flat**2)

    found = minimize(objective, np.zeros(D * K + K), method="L-BFGS-B", tol=1e-12)
    return found.x[: D * K].reshape(D, K), found.x[D * K :]


def test_full_batches_reach_scipys_minimum():
    x, y = overlapping()
    kernel, bias = minimum(x, y, 3, 0.05)
    fit = fit_linear(
        x, y, num_classes=3, epochs=600, batch_size=90, weight_decay=0.05, standardize=False
    )
    np.testing.assert_allclose(fit.head.kernel, kernel, atol=1e-4)
    np.testing.assert_allclose(fit.head.bias, bias, atol=1e-4)


def test_standardised_by_the_train_statistics_and_folded_into_the_head():
    x, y = overlapping()
    x = x * np.array([100.0, 1.0, 0.01, 3.0]) + np.array([5.0, -70.0, 2.0, 0.0])
    mean, std = x.mean(axis=0), x.std(axis=0)
    kernel, bias = minimum((x - mean) / std, y, 3, 0.05)
    fit = fit_linear(x, y, num_classes=3, epochs=600, batch_size=90, weight_decay=0.05)
    np.testing.assert_allclose(fit.head.kernel, kernel / std[:, None], rtol=2e-3, atol=1e-6)
    expected = ((x - mean) / std) @ kernel + bias
    np.testing.assert_allclose(
        softmax_regression.logits_of(fit.head, jnp.float32(x)), expected, atol=2e-3
    )


def test_is_as_accurate_as_scikit_learn_on_digits():
    digits = load_digits()
    x, y = digits.data, digits.target  # raw pixels 0..16, some of them constant
    train, test = np.arange(len(y)) % 5 != 4, np.arange(len(y)) % 5 == 4
    scale = StandardScaler().fit(x[train])
    reference = LogisticRegression(C=1.0, max_iter=500).fit(scale.transform(x[train]), y[train])
    reference = reference.score(scale.transform(x[test]), y[test])
    fit = fit_linear(x[train], y[train], num_classes=10)
    found = linear_accuracy(fit.head, x[test], y[test])
    assert found["count"] == test.sum() == 359
    assert found["top1"] > reference - 0.02  # 359 examples: 2 % are seven
    assert found["top1"] > 0.9
    assert found["top5"] > 0.98
    assert fit.losses.shape == (100,)
    assert fit.losses[-1] < 0.15 < fit.losses[0] < np.log(10)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_chosen_rate_suits_any_scale_and_correlation(scale):
    x, y = overlapping(M=300, D=40)
    x = scale * (x + 5 * x[:, :1])  # all dimensions follow the first
    fit = fit_linear(x, y, num_classes=3, epochs=50)
    assert np.all(fit.losses <= fit.losses[0])  # momentum may swing, but stays below the start
    assert fit.losses[-1] < 0.6 * fit.losses[0] < 0.6 * np.log(3) + 1e-6
    # 1 / L: twice the reciprocal of the largest eigenvalue of the correlations.
    expected = 2 / np.linalg.eigvalsh(np.corrcoef(x.T)).max()
    assert expected < 2 / 30
    assert fit.learning_rate == pytest.approx(expected, rel=1e-2)


def test_the_chosen_rate_includes_the_bias_without_standardisation():
    x, y = overlapping(M=300, D=40)
    fit = fit_linear(x, y, num_classes=3, epochs=2, standardize=False)
    z = np.concatenate([x, np.ones((300, 1))], axis=1)
    expected = 2 / np.linalg.eigvalsh(z.T @ z / 300).max()
    assert fit.learning_rate == pytest.approx(expected, rel=1e-2)


def test_starts_at_zero_logits():
    x, y = overlapping(M=60)
    fit = fit_linear(x, y, num_classes=3, epochs=1, batch_size=60, learning_rate=0.0)
    assert fit.losses[0] == pytest.approx(np.log(3), rel=1e-6)
    assert not np.any(fit.head.kernel) and not np.any(fit.head.bias)


def test_random_labels_are_not_learnt():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1000, 20)), rng.integers(0, 10, 1000)
    head = fit_linear(x[:500], y[:500], num_classes=10, epochs=30).head
    found = linear_accuracy(head, x[500:], y[500:])
    assert abs(found["top1"] - 0.1) < 0.06  # 4.5 deviations of a binomial


def test_the_head_depends_on_the_seed_only():
    x, y = overlapping(M=200)
    heads = [
        fit_linear(x, y, num_classes=3, epochs=3, batch_size=16, seed=seed).head.kernel
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert np.abs(heads[0] - heads[2]).max() > 1e-5


def test_compiles_once_for_a_shape():
    x, y = overlapping()
    fit_linear(x, y, num_classes=3, epochs=2)
    before = softmax_regression._fit._cache_size()
    fit_linear(x + 1.0, y, num_classes=3, epochs=2, seed=5, weight_decay=0.1)
    assert softmax_regression._fit._cache_size() == before


def test_ties_count_as_wrong():
    head = LinearHead(jnp.zeros((2, 6)), jnp.zeros(6))
    found = linear_accuracy(head, np.ones((4, 2)), np.array([0, 1, 2, 3]))
    assert found == {"top1": 0.0, "correct": 0, "count": 4, "top5": 0.0}
    head = LinearHead(jnp.zeros((1, 6)), jnp.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    found = linear_accuracy(head, np.ones((6, 1)), np.arange(6))
    assert found == {"top1": 1 / 6, "correct": 1, "count": 6, "top5": 5 / 6}


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "said"),
    [
        (np.ones((4, 2)), [0, 1, 0, 2], {}, UserError, "integer labels from 0 to 1, found int64"),
        (np.ones((4, 2)), [0, 1, 0, -1], {}, UserError, "A data set without labels (-1)"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], {}, UserError, "4 of 4 examples whose features"),
        (np.ones((4, 2)), [0, 1, 0, 1], {"epochs": 0}, UserError, "at least 1 epoch"),
        (np.ones((4, 2)), [0, 1], {}, ValueError, "found (4, 2) and (2,)"),
        (
            np.arange(8.0).reshape(4, 2),
            [0, 1, 0, 1],
            {"learning_rate": 1e38, "weight_decay": 1e9},
            UserError,
            "diverged at a learning rate of 1e+38",
        ),
    ],
)
def test_mistakes_are_refused(features, labels, options, error, said):
    with pytest.raises(error) as caught:
        fit_linear(features, np.array(labels), num_classes=2, **options)
    assert said in str(caught.value)


# Presets ----------------------------------------------------------------------------------------

RECORDED = {  # the recorded runs are these, in fewer epochs
    "moco": (PRESETS["moco"], 10, 256),
    "cmc": (PRESETS["cmc"], 12, 256),
    "swav": (PRESETS["swav"], 10, 256),
    "nesterov": (LinearPreset(10, 1024, 0.1, nesterov=True, per_epoch=True), 10, 1024),
}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_learning_rates_are_those_of_torchs_schedulers(name):
    preset, epochs, batch_size = RECORDED[name]
    rates = GOLDEN[f"sgd_{name}_rates"]
    found = [
        preset_rate(preset, step / 3, epochs=epochs, batch_size=batch_size)
        for step in range(len(rates))
    ]
    assert len(found) == 3 * epochs
    np.testing.assert_allclose(found, rates, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_updates_are_those_of_torchs_sgd(name):
    preset, _, _ = RECORDED[name]
    head = LinearHead(jnp.float32(GOLDEN["sgd_weight"].T), jnp.zeros(4))
    tx = sgd(momentum=preset.momentum, nesterov=preset.nesterov, weight_decay=preset.weight_decay)
    state, update = tx.init(head), jax.jit(lambda *a: sgd_step(tx, *a))
    for step, rate in enumerate(GOLDEN[f"sgd_{name}_rates"]):
        batch = GOLDEN["sgd_x"][step], GOLDEN["sgd_y"][step]
        head, state, _ = update(head, state, *batch, np.float32(rate))
    # At lr 30 the logits are in the hundreds, and float32 carries its rounding through 30 steps.
    kernel, bias = GOLDEN[f"sgd_{name}_kernel"], GOLDEN[f"sgd_{name}_bias"]
    np.testing.assert_allclose(head.kernel, kernel, rtol=1e-4, atol=1e-5 * np.abs(kernel).max())
    np.testing.assert_allclose(head.bias, bias, rtol=1e-4, atol=1e-5 * np.abs(bias).max())


@pytest.mark.parametrize(
    ("name", "epoch", "batch_size", "rate"),
    [
        ("simclr", 0, 4096, 1.6),
        ("simclr", 45, 4096, 0.8),
        ("simclr_cifar", 0, 512, 0.2),
        ("moco", 0, 256, 30.0),
        ("moco", 60, 256, 3.0),
        ("moco", 80, 256, 0.3),
        ("moco_v3", 0, 1024, 0.4),
        ("moco_v3_vit", 0, 1024, 12.0),
        ("byol", 0, 1024, 0.8),
        ("cmc", 50, 256, 0.24),
        ("swav", 0, 256, 0.3),
        ("vicreg", 0, 256, 0.02),
    ],
)
def test_presets_are_the_papers(name, epoch, batch_size, rate):
    preset = PRESETS[name]
    assert batch_size == preset.batch_size
    found = preset_rate(preset, epoch, epochs=preset.epochs, batch_size=batch_size)
    assert found == pytest.approx(rate, rel=1e-6)


def test_the_numbers_of_epochs_and_the_decay_of_the_papers():
    epochs = {name: preset.epochs for name, preset in PRESETS.items()}
    assert epochs == {
        "simclr": 90,
        "simclr_cifar": 100,
        "moco": 100,
        "moco_v3": 90,
        "moco_v3_vit": 90,
        "byol": 80,
        "cmc": 60,
        "cmc_wide": 60,
        "cmc_alexnet": 60,
        "deepcluster": 90,
        "swav": 100,
        "vicreg": 100,
        "beit": 100,
    }
    assert {n for n, p in PRESETS.items() if p.nesterov} == {"simclr", "simclr_cifar", "byol"}
    decays = {n: p.weight_decay for n, p in PRESETS.items() if p.weight_decay}
    assert decays == {"swav": 1e-6, "vicreg": 1e-6, "deepcluster": 1e-7, "beit": 1e-4}
    assert {n for n, p in PRESETS.items() if p.init == "zeros"} == {"simclr", "simclr_cifar"}
    assert all(p.momentum == 0.9 for p in PRESETS.values())


def test_a_small_data_set_halves_the_batch_until_an_epoch_has_ten_steps():
    assert fitting_batch(PRESETS["simclr"], 1_281_167) == 4096
    assert fitting_batch(PRESETS["simclr"], 50_000) == 4096
    assert fitting_batch(PRESETS["simclr"], 3200) == 256
    assert fitting_batch(PRESETS["moco"], 40) == 4
    assert fitting_batch(PRESETS["moco"], 3) == 1
