"""Logistic regression along a grid: scikit-learn's optimum, and no choice by the test split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jssl.errors import UserError
from jssl.evaluate import linear_accuracy
from jssl.evaluate.probes import logistic_lbfgs
from jssl.evaluate.probes.logistic_lbfgs import REGULARIZERS, fit_logistic
from jssl.evaluate.probes.logistic_table import logistic_row, select_logistic, small_pixels

GRID = (1e-2, 1e3, 1.0, 1e5, 10.0)  # of the sum over 240 examples, in no order
M, D, K = 240, 6, 4


@pytest.fixture(scope="module")
def data():
    """Classes that overlap; features of unequal scale, far from 0, two of them nearly the same."""
    rng = np.random.default_rng(0)
    y = np.arange(M) % K
    x = rng.normal(size=(K, D))[y] + rng.normal(size=(M, D))
    x[:, 5] = x[:, 4] + 0.01 * x[:, 5]
    return (x * [1, 1, 3, 0.3, 1, 1] + 20).astype(np.float32), y


@pytest.fixture(scope="module")
def path(data):
    return fit_logistic(*data, num_classes=K, regularizers=GRID, reduction="sum", tolerance=3e-7)


def softmax(x, y, kernel, bias):
    """Probabilities and losses in float64."""
    z = x.astype(np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    z -= z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p, -np.log(p[np.arange(len(y)), y])


@pytest.mark.parametrize("row", range(len(GRID)))
def test_the_optimum_is_scikit_learns(data, path, row):
    x, y = data
    lam = GRID[row]
    centred = x.astype(np.float64) - 20  # scikit-learn's L-BFGS does not get there from 20
    reference = LogisticRegression(C=1 / lam, tol=1e-10, max_iter=20_000).fit(centred, y)
    kernel, bias = path.head(row)
    scale = np.abs(reference.coef_).max()
    np.testing.assert_allclose(kernel, reference.coef_.T, rtol=0, atol=2e-3 * scale)
    p, loss = softmax(x, y, kernel, bias)
    np.testing.assert_allclose(p, reference.predict_proba(centred), rtol=0, atol=2e-4)
    _, best = softmax(centred, y, reference.coef_.T, reference.intercept_)
    found = loss.mean() + lam / (2 * M) * np.sum(np.square(kernel, dtype=np.float64))
    best = best.mean() + lam / (2 * M) * np.sum(reference.coef_**2)
    assert best - 1e-9 <= found <= best + 2e-6
    np.testing.assert_allclose(path.objectives[row], best, atol=2e-6)


def test_the_gradient_is_zero_and_is_reported(data, path):
    x, y = data
    for row, lam in enumerate(GRID):
        p, _ = softmax(x, y, *path.head(row))
        residual = (p - np.eye(K)[y]) / M
        gradient = (x.astype(np.float64) - x.mean(axis=0)).T @ residual
        gradient += lam / M * np.asarray(path.heads.kernel[row], np.float64)
        assert np.abs(gradient).max() < 3e-6
        assert np.abs(residual.sum(axis=0)).max() < 3e-6  # of the bias: not penalised
    assert (path.gradients < 1e-6).all()


def test_a_large_regulariser_predicts_class_frequencies():
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(K), [120, 60, 40, 20])
    x = rng.normal(size=(M, D)).astype(np.float32)
    found = fit_logistic(x, y, num_classes=K, regularizers=np.full(5, 1e5), reduction="mean")
    assert np.abs(found.heads.kernel).max() < 1e-4
    bias = np.asarray(found.heads.bias[0])
    shares = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(shares, [1 / 2, 1 / 4, 1 / 6, 1 / 12], atol=1e-4)


def test_mean_and_sum_differ_by_the_number_of_examples(data, path):
    lam = np.asarray(GRID) / M
    found = fit_logistic(*data, num_classes=K, regularizers=lam, reduction="mean", tolerance=3e-7)
    np.testing.assert_allclose(found.heads.kernel, path.heads.kernel, atol=1e-4)
    assert found.regularizers.tolist() == lam.tolist()


def test_each_fit_starts_from_the_one_before_and_the_order_does_not_matter(data, path):
    kwargs = {"num_classes": K, "reduction": "sum", "tolerance": 3e-7}
    sorted_ = fit_logistic(*data, regularizers=sorted(GRID), **kwargs)
    back = np.argsort(np.argsort(GRID))
    np.testing.assert_array_equal(sorted_.heads.kernel[back], path.heads.kernel)
    np.testing.assert_array_equal(sorted_.iterations[back], path.iterations)
    same = fit_logistic(*data, regularizers=np.full(5, 0.1), **kwargs)
    assert same.iterations[0] > 3
    assert same.iterations[1:].max() <= 1


def test_kept_pairs_are_those_of_the_next_regulariser():
    """Of a quadratic y = (A + lambda P) s, by hand: with the next lambda in the place of one."""
    rng = np.random.default_rng(3)
    A, s = rng.normal(size=(4, 4)), rng.normal(size=(logistic_lbfgs.MEMORY, 4, 2))
    P = np.diag([1.0, 1.0, 1.0, 0.0])  # the bias is last, and is not penalised
    y, expected = (np.einsum("ij,mjk->mik", A + lam * P, s) for lam in (5.0, 0.25))
    memory = logistic_lbfgs._Memory(jnp.asarray(s), jnp.asarray(y), jnp.int32(3))
    found = logistic_lbfgs._shifted(memory, 0.25 - 5.0, jnp.asarray(np.diag(P)[:, None]))
    np.testing.assert_allclose(found.y, expected, atol=1e-5)
    np.testing.assert_array_equal(found.s, memory.s)
    assert int(found.written) == 3


def test_pairs_are_shifted_by_the_change_of_lambda(data, path, monkeypatch):
    """And goes another way to the same optima when a spy gives back the pairs as they were."""
    seen = []

    def spy(memory, change, penalised):
        jax.debug.callback(lambda x: seen.append(float(x)), change)
        return memory

    monkeypatch.setattr(logistic_lbfgs, "_shifted", spy)
    logistic_lbfgs._walk.clear_cache()
    kwargs = {"num_classes": K, "reduction": "sum", "tolerance": 3e-7}
    left = fit_logistic(*data, regularizers=GRID, **kwargs)
    jax.effects_barrier()
    logistic_lbfgs._walk.clear_cache()  # of what was compiled with the spy
    lam = np.sort(GRID)[::-1] / M
    np.testing.assert_allclose(sorted(seen), sorted([0.0, *np.diff(lam)]), rtol=1e-5)
    np.testing.assert_allclose(left.objectives, path.objectives, atol=2e-6)
    assert left.iterations.tolist() != path.iterations.tolist()


def test_multilabel_is_binary_regressions_without_ignored_labels(data):
    x, y = data
    x = x - 20
    rng = np.random.default_rng(2)
    labels = (rng.normal(size=(M, K)) + x[:, :K] > 0).astype(int)
    labels[rng.random((M, K)) < 0.1] = -1
    found = fit_logistic(
        x, labels, num_classes=K, regularizers=GRID, reduction="sum", tolerance=3e-7
    )
    for k in range(K):
        counts = labels[:, k] >= 0
        reference = LogisticRegression(C=1 / GRID[2], tol=1e-10, max_iter=5000)
        reference.fit(x[counts].astype(np.float64), labels[counts, k])
        np.testing.assert_allclose(found.heads.kernel[2][:, k], reference.coef_[0], atol=2e-3)
        np.testing.assert_allclose(found.heads.bias[2][k], reference.intercept_[0], atol=2e-3)


def test_separable_classes_and_more_features_than_examples_do_not_break_it():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 40)).astype(np.float32), np.arange(20) % 2
    found = fit_logistic(x, y, num_classes=2, regularizers=(1e-6, 1e-2))
    assert (found.gradients <= 1e-5).all()
    assert linear_accuracy(found.head(0), x, y)["top1"] == 1.0
    kernels = np.asarray(found.heads.kernel, np.float64)
    # By hand: all that the gradient is made of are the examples and, of two classes, their
    # difference. Noise outside would tell in the test split alone.
    np.testing.assert_allclose(kernels[..., 0], -kernels[..., 1], atol=1e-5)
    centred = (x - x.mean(axis=0)).astype(np.float64)
    span = np.linalg.svd(centred, full_matrices=False)[2][:19]
    outside = kernels - np.einsum("id,ie,rek->rdk", span, span, kernels)
    assert np.abs(outside).max() < 1e-4
    # scikit-learn has one kernel w of two classes. Here it is (-w/2, w/2), which costs half of it.
    reference = LogisticRegression(C=2 / (1e-2 * 20), tol=1e-9, max_iter=5000).fit(x, y)
    np.testing.assert_allclose(2 * kernels[1, :, 1], reference.coef_[0], atol=5e-3)


def test_the_grid_is_the_papers():
    assert len(REGULARIZERS) == 45
    assert (REGULARIZERS[0], REGULARIZERS[-1]) == (1e-6, 1e5)
    np.testing.assert_allclose(np.diff(np.log10(REGULARIZERS)), 0.25, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"regularizers": (1.0, 0.0)}, UserError, "regularisers above 0"),
        ({"reduction": "men"}, ValueError, "'sum' or 'mean', found 'men'"),
        ({"num_classes": 3}, UserError, "integer labels from 0 to 2"),
        ({"labels": np.full((M, K), 2)}, ValueError, "1, 0 and -1 with K=4"),
        ({"features": np.full((M, D), np.nan)}, UserError, "240 of 240 examples"),
    ],
    ids=["lambda", "reduction", "labels", "several", "nan"],
)
def test_mistakes_are_refused(data, change, error, said):
    settings = {"features": data[0], "labels": data[1], "num_classes": K, **change}
    with pytest.raises(error, match=said):
        fit_logistic(settings.pop("features"), settings.pop("labels"), **settings)


# Selection ---------------------------------------------------------------------------------------


def noisy(count, seed):
    """Three classes in two features, and thirty that tell nothing: too small a lambda overfits."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    centres = np.array([[0, 2], [2, 0], [-2, -1]])
    x = np.concatenate([centres[y] + 1.5 * rng.normal(size=(count, 2)),
                        3 * rng.normal(size=(count, 30))], axis=1)  # fmt: skip
    return x.astype(np.float32), y


SHORT = (1e-4, 1e-2, 1.0, 3.0, 1e3)


def test_lambda_is_selected_on_validation_and_refitted_on_both():
    train, validation = noisy(90, 0), noisy(300, 1)
    found = select_logistic(train, validation, num_classes=3, regularizers=SHORT)
    path = fit_logistic(*train, num_classes=3, regularizers=SHORT)
    kernels, biases = map(np.asarray, path.heads)
    z = [validation[0] @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True)]
    scores = [np.mean(np.argmax(logits, axis=1) == validation[1]) for logits in z]
    np.testing.assert_allclose(found.validation, scores)
    best = max(i for i in range(5) if scores[i] == max(scores))  # of equals the largest lambda
    assert found.regularizer == SHORT[best]
    assert 0 < best < 4 and scores[best] > scores[0] + 0.02  # the choice matters
    lam = SHORT[best]
    x, y = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    reference = LogisticRegression(C=1 / (lam * len(y)), tol=1e-9, max_iter=5000)
    np.testing.assert_allclose(found.head.kernel, reference.fit(x, y).coef_.T, atol=1e-3)


def test_poisoned_test_labels_change_the_score_and_not_the_selection():
    (x, y), (test_x, test_y) = noisy(300, 0), noisy(150, 1)
    wrong = (test_y + 1) % 3
    plain, poisoned = (
        logistic_row({"trained": (x, y, test_x, labels)}, num_classes=3, name="mine",
                     regularizers=SHORT)["numbers"]["trained"]
        for labels in (test_y, wrong)
    )  # fmt: skip
    for key in ("regularizer", "validation_top1", "gradient", "protocol"):
        assert plain[key] == poisoned[key]
    assert plain["top1"] > 0.7 > 0.3 > poisoned["top1"]
    assert plain["count"] == 150
    assert "300 train" in plain["protocol"] and "150 test examples of mine" in plain["protocol"]
    assert f"L2 lambda = {plain['regularizer']:.3g}, one of 5 lambda" in plain["protocol"]


def test_validation_labels_select():
    # The test above would pass if nothing were chosen at all.
    train, (x, y) = noisy(90, 0), noisy(300, 1)
    found = [
        select_logistic(train, (x, labels), num_classes=3, regularizers=SHORT).regularizer
        for labels in (y, (y + 1) % 3)
    ]
    assert found[0] != found[1]


def test_large_raw_pixels_are_averaged():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    small, _ = small_pixels(None, jnp.asarray(images))
    assert small.shape == (2, 32 * 32 * 3)
    flat = np.full((1, 64, 64, 3), 51, np.uint8)
    np.testing.assert_allclose(small_pixels(None, flat)[0], 0.2, atol=1e-6)
