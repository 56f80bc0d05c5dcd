"""Batch normalisation and heads against numpy and worked shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models.heads import Linear, Projector
from jssl.models.norm import BatchNorm

X = np.random.default_rng(0).normal(2.0, 3.0, (8, 5, 4, 6)).astype(np.float32)


def normalise(x, axes, eps=1e-5):
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)


def start(norm, x=X):
    return norm.init(jax.random.key(0), x, train=True)


def test_batch_statistics_and_running_ones():
    norm = BatchNorm()
    y, moved = norm.apply(start(norm), X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, normalise(X, (0, 1, 2)), atol=1e-5)
    stats = moved["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * X.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * X.var((0, 1, 2)), rtol=1e-5)
    params = {"scale": np.full(6, 2.0, np.float32), "bias": np.arange(6, dtype=np.float32)}
    y = norm.apply({"params": params, "batch_stats": stats}, X, train=False)
    mean, var = np.asarray(stats["mean"]), np.asarray(stats["var"])
    expected = (X - mean) / np.sqrt(var + 1e-5) * 2 + np.arange(6)
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_groups_are_normalised_separately(interleaved):
    norm = BatchNorm(groups=4, interleaved=interleaved)
    y, moved = norm.apply(start(norm), X, train=True, mutable=["batch_stats"])
    expected, variances = np.empty_like(X), []
    for g in range(4):
        rows = np.arange(8) % 4 == g if interleaved else np.arange(8) // 2 == g
        expected[rows] = normalise(X[rows], (0, 1, 2))
        variances.append(X[rows].var((0, 1, 2)))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(
        moved["batch_stats"]["var"], 0.9 + 0.1 * np.mean(variances, axis=0), rtol=1e-5
    )
    with pytest.raises(ValueError, match="groups=4 needs a batch divisible by it; found 6"):
        norm.apply(start(norm), X[:6], train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("mode", ["pmap", "vmap"])
def test_normalisation_on_four_devices_equals_one(mode):
    one, four = BatchNorm(), BatchNorm(axis_name="d")
    variables = start(one)
    weights = np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)

    def run(norm, x, w):
        def loss(x):
            y, moved = norm.apply(variables, x, train=True, mutable=["batch_stats"])
            return jnp.sum(y * w), (y, moved)

        gradient, (y, moved) = jax.grad(loss, has_aux=True)(x)
        return gradient, y, moved["batch_stats"]

    full = run(one, X, weights)
    split = (jax.pmap if mode == "pmap" else jax.vmap)(lambda x, w: run(four, x, w), axis_name="d")(
        X.reshape(4, 2, *X.shape[1:]), weights.reshape(4, 2, *X.shape[1:])
    )
    # d(sum over devices)/dx reaches every device through the shared statistics.
    np.testing.assert_allclose(split[1].reshape(X.shape), full[1], atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(split[2][name][3], full[2][name], atol=1e-5)
    np.testing.assert_allclose(split[0].reshape(X.shape), full[0], atol=1e-4)


def test_bfloat16_statistics_are_float32():
    x = (X + 100).astype(jnp.bfloat16)  # E[x^2] - E[x]^2 would be lost in bfloat16
    norm = BatchNorm(dtype=jnp.bfloat16)
    y, moved = norm.apply(start(norm), x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float32)
    np.testing.assert_allclose(
        moved["batch_stats"]["var"], 0.9 + 0.1 * exact.var((0, 1, 2)), rtol=0.01
    )


def shapes(head, D=16):
    x = jnp.zeros((4, D))
    tree = head.init(jax.random.key(0), x, train=True)["params"]
    return {f"{m}.{k}": v.shape for m, p in tree.items() for k, v in p.items()}


def test_simclr_projector_has_no_biases_and_no_last_beta():
    result = shapes(Projector((0,), 8))
    assert result == {
        "dense0.kernel": (16, 16),
        "bn0.scale": (16,),
        "bn0.bias": (16,),
        "dense1.kernel": (16, 8),
        "bn1.scale": (8,),
    }


def test_projectors_of_other_methods():
    moco_v2 = Projector((32,), 8, use_bias=True, hidden_bn=False, last_bn="none")
    assert set(shapes(moco_v2)) == {"dense0.kernel", "dense0.bias", "dense1.kernel", "dense1.bias"}
    byol = Projector((32,), 8, use_bias=True, last_bias=False, last_bn="none")
    assert set(shapes(byol)) == {
        "dense0.kernel",
        "dense0.bias",
        "bn0.scale",
        "bn0.bias",
        "dense1.kernel",
    }
    v3 = shapes(Projector((32,), 8, last_bn="plain"))
    assert "bn1.scale" not in v3


def test_projector_by_hand():
    head = Projector((0,), 3)
    x = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
    variables = head.init(jax.random.key(0), x, train=True)
    z, _ = head.apply(variables, x, train=True, mutable=["batch_stats"])
    p = variables["params"]
    hidden = np.maximum(normalise(x @ p["dense0"]["kernel"], (0,)), 0)
    np.testing.assert_allclose(z, normalise(hidden @ p["dense1"]["kernel"], (0,)), atol=1e-4)


def test_linear_starts_small_or_at_zero():
    x = jnp.ones((2, 500))
    params = Linear(100).init(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(np.std(params["kernel"]), 0.01, rtol=0.02)
    zero = Linear(100, zero_init=True).init(jax.random.key(0), x)["params"]
    assert not np.any(zero["kernel"])
