"""Moments over batches, and PCA whitening."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import decomposition

from jssl import state

FAISS = np.load(Path(__file__).parents[1] / "golden" / "kmeans_faiss.npz")


fit = jax.jit(state.fit_pca, static_argnames=("dim", "whiten"))


def features(N=300, D=8, seed=0, mean=3.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + mean).astype(np.float32)


def moments_of(x, sizes):
    moments = state.init_moments(x.shape[1])
    for batch in np.split(x, np.cumsum(sizes)[:-1]):
        moments = jax.jit(state.add)(moments, batch)
    return moments


@pytest.mark.parametrize("sizes", [[300], [100, 200], [1, 149, 150]])
def test_moments_equal_numpys_covariance(sizes):
    x = features()
    moments = moments_of(x, sizes)
    assert int(moments.count) == 300
    np.testing.assert_allclose(moments.mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    covariance = np.cov(x.astype(np.float64).T)
    tolerance = 1e-6 * np.abs(covariance).max()
    np.testing.assert_allclose(moments.scatter / 299, covariance, atol=tolerance)


def test_large_means_keep_precision():
    """Mean 1000, deviations about 3: a plain sum of x x^T in float32 keeps a digit at most."""
    x = features(mean=1000.0)
    covariance = np.cov(x.astype(np.float64).T)
    tolerance = 2e-5 * np.abs(covariance).max()
    np.testing.assert_allclose(moments_of(x, [50] * 6).scatter / 299, covariance, atol=tolerance)
    plain = (x.T @ x - 300 * np.outer(x.mean(0), x.mean(0))) / 299
    assert np.abs(plain - covariance).max() > 100 * tolerance


def test_masked_rows_are_ignored():
    x = features(60)
    padded = np.concatenate([x, np.full((4, 8), np.nan, np.float32)])
    result = jax.jit(state.add)(state.init_moments(8), padded, np.arange(64) < 60)
    assert int(result.count) == 60
    full = moments_of(x, [60])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), result, full)
    none = jax.jit(state.add)(result, padded, np.zeros(64, bool))
    jax.tree.map(np.testing.assert_array_equal, none, result)


@pytest.mark.parametrize("mode", ["pmap", "vmap"])
def test_moments_on_four_devices_equal_those_on_one(mode):
    x, mask = features(64), np.arange(64) < 61
    start = moments_of(features(10, seed=1), [10])
    single = jax.jit(state.add)(start, x, mask)
    call = jax.pmap if mode == "pmap" else jax.vmap
    run = call(lambda x, mask: state.add(start, x, mask, axis_name="share"), axis_name="share")
    result = run(x.reshape(4, 16, 8), mask.reshape(4, 16))
    for device in range(4):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[device], b, rtol=1e-5, atol=1e-4),  # noqa: B023
            result,
            single,
        )


def test_directions_and_variances_equal_scikit_learn():
    x = features()
    pca = fit(moments_of(x, [100, 200]), dim=5)
    reference = decomposition.PCA(5, whiten=True, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(pca.variances, reference.explained_variance_, rtol=1e-5)
    expected = reference.transform(x.astype(np.float64))
    result = np.asarray(state.apply_pca(pca, x))
    signs = np.sign((expected * result).sum(0))
    np.testing.assert_allclose(result * signs, expected, atol=2e-4)
    # The sign is fixed: the largest coordinate of a direction is positive.
    largest = np.abs(pca.components).argmax(0)
    assert np.all(np.asarray(pca.components)[largest, np.arange(5)] > 0)


def test_whitened_features_have_the_unit_covariance():
    x = features(2000, 12)
    result = np.asarray(state.apply_pca(fit(moments_of(x, [2000]), dim=12), x))
    np.testing.assert_allclose(np.cov(result.T), np.eye(12), atol=5e-4)
    np.testing.assert_allclose(result.mean(0), 0.0, atol=1e-4)
    plain = fit(moments_of(x, [2000]), dim=12, whiten=False)
    np.testing.assert_allclose(plain.components.T @ plain.components, np.eye(12), atol=1e-5)
    rotated = np.cov(np.asarray(state.apply_pca(plain, x)).T)
    np.testing.assert_allclose(rotated, np.diag(plain.variances), atol=1e-4 * rotated.max())


def test_whitened_unit_rows_equal_faiss():
    """faiss whitens up to a common factor, which the length takes, and signs."""
    x = FAISS["pca_features"]
    pca = fit(moments_of(x, [300]), dim=5)
    result = np.asarray(state.unit_rows(state.apply_pca(pca, x)))
    expected = np.asarray(state.unit_rows(FAISS["pca_whitened"]))
    signs = np.sign((expected * result).sum(0))
    np.testing.assert_allclose(result * signs, expected, atol=2e-4)


def test_directions_without_variance_become_zero():
    """Rank 3 of 6: whitened rounding errors would be features of full size."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(100, 3)) @ rng.normal(size=(3, 6)) + 2).astype(np.float32)
    result = np.asarray(state.apply_pca(fit(moments_of(x, [100]), dim=6), x))
    np.testing.assert_allclose(np.cov(result.T), np.diag([1, 1, 1, 0, 0, 0]), atol=1e-3)
    same = fit(moments_of(np.ones((9, 6), np.float32), [9]), dim=2)
    np.testing.assert_array_equal(state.apply_pca(same, jnp.ones((1, 6))), 0.0)


def test_misuse_raises_with_the_shapes():
    moments = state.init_moments(3)
    with pytest.raises(ValueError, match=r"mean \[D\], found \(\(5, 4\), \(3,\)\)"):
        state.add(moments, jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"mask \(5,\), found \(4,\)"):
        state.add(moments, jnp.zeros((5, 3)), jnp.ones(4, bool))
    with pytest.raises(ValueError, match="dim between 1 and 3, found 4"):
        state.fit_pca(moments, dim=4)
