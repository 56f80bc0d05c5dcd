"""VICReg's loss against a loop of the official code's equations, closed forms, and sharded."""

import functools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jssl import losses
from jssl.parallel.collectives import mean_value_and_grad

naive = runpy.run_path(str(Path(__file__).parents[1] / "reference" / "naive_losses.py"))
AXIS = "some_axis"
WEIGHTS = ("invariance", "variance", "covariance")
vicreg = jax.jit(losses.variance_invariance_covariance, static_argnames=(*WEIGHTS, "axis_name"))


def embeddings(size, dim, scale=0.6, seed=0):
    """Two views whose dimensions are correlated, and have deviations on both sides of 1."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(size, dim)) @ rng.normal(size=(dim, dim)) / math.sqrt(dim)
    z_a = mixed * np.linspace(0.2, 3.0, dim) * scale + 5.0
    return z_a, z_a + 0.4 * rng.normal(size=(size, dim))


def as_jax(*arrays):
    return tuple(np.asarray(array, np.float32) for array in arrays)


def terms_of(terms):
    return [float(terms[name]) for name in WEIGHTS]


# Reference values -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dim"), [(2, 3), (5, 1), (7, 4), (4, 9)])
def test_equals_the_loop_of_the_official_code(size, dim):
    z = embeddings(size, dim)
    loss, terms = vicreg(*as_jax(*z))
    assert loss.shape == () and loss.dtype == jnp.float32
    expected, *expected_terms = naive["official_vicreg"](*z)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(terms_of(terms), expected_terms, rtol=2e-5, atol=1e-7)
    assert terms.keys() == {*WEIGHTS}
    assert dim == 1 or min(expected_terms) > 1e-3  # else a term could be left out


def test_weights_scale_their_terms():
    z = embeddings(6, 4)
    weights = dict(zip(WEIGHTS, (2.0, 3.0, 5.0), strict=True))
    loss, terms = vicreg(*as_jax(*z), **weights)
    np.testing.assert_allclose(loss, naive["official_vicreg"](*z, **weights)[0], rtol=1e-5)
    for name in WEIGHTS:
        single = {other: float(other == name) for other in WEIGHTS}
        np.testing.assert_allclose(vicreg(*as_jax(*z), **single)[0], terms[name], rtol=1e-6)
    traced = jax.jit(lambda w: losses.variance_invariance_covariance(*as_jax(*z), variance=w)[0])
    np.testing.assert_allclose(traced(7.0), vicreg(*as_jax(*z), variance=7.0)[0], rtol=1e-6)


# Closed forms -----------------------------------------------------------------------------------


def test_collapsed_embeddings():
    z = np.full((6, 5), 3.0, np.float32)
    loss, terms = vicreg(z, z)
    np.testing.assert_allclose(terms_of(terms), [0.0, 1 - math.sqrt(1e-4), 0.0], atol=1e-6)
    np.testing.assert_allclose(loss, 24.75, rtol=1e-6)
    # One view alone collapsed: half of it, and c of the other view alone.
    other = np.array(np.eye(6, 5) * 100, np.float32)
    np.testing.assert_allclose(vicreg(z, other)[1]["variance"], 0.495, rtol=1e-6)


def test_decorrelated_embeddings_of_unit_variance_have_zero_loss():
    """Columns of a Hadamard matrix, but the constant one, have mean 0 and are orthogonal."""
    two = np.array([[1, 1], [1, -1]])
    columns = np.kron(np.kron(two, two), two)[:, 1:] * math.sqrt(7 / 8)  # N = 8: variance 8/7
    loss, terms = vicreg(*as_jax(columns, columns))
    np.testing.assert_allclose(terms_of(terms), [0.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(loss, 0.0, atol=1e-5)
    # Half the deviation: 1 - sqrt(1/4 + 1e-4).
    half = vicreg(*as_jax(columns / 2, columns / 2))[1]
    np.testing.assert_allclose(half["variance"], 1 - math.sqrt(0.2501), rtol=1e-5)
    np.testing.assert_allclose(half["covariance"], 0.0, atol=1e-6)


def test_equal_dimensions_have_the_covariance_of_their_variance():
    """D copies of one dimension of variance 4: D (D - 1) entries of 4, squared, over D; twice."""
    z = np.repeat(np.array([[1.0], [-1.0]] * 3) * 2 * math.sqrt(5 / 6), 4, axis=1)
    terms = vicreg(*as_jax(z, z))[1]
    np.testing.assert_allclose(terms["covariance"], 2 * 3 * 16, rtol=1e-5)
    assert float(terms["variance"]) == 0.0


def test_shifting_a_view_only_changes_the_invariance():
    z_a, z_b = as_jax(*embeddings(9, 4))
    before, after = vicreg(z_a, z_a)[1], vicreg(z_a, z_a + np.float32(2.0))[1]
    np.testing.assert_allclose([before["invariance"], after["invariance"]], [0.0, 4.0], rtol=1e-5)
    for name in ("variance", "covariance"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)
    swapped, order = vicreg(z_b, z_a)[0], np.random.default_rng(1).permutation(9)
    np.testing.assert_allclose(swapped, vicreg(z_a, z_b)[0], rtol=1e-6)
    np.testing.assert_allclose(vicreg(z_a[order], z_b[order])[0], vicreg(z_a, z_b)[0], rtol=1e-5)
    assert abs(float(vicreg(z_a[order], z_b)[0] - vicreg(z_a, z_b)[0])) > 1.0


# Gradients and precision ------------------------------------------------------------------------


def test_gradient_equals_the_loop():
    z = embeddings(5, 3)

    def mean(z):
        return losses.variance_invariance_covariance(*z)[0]

    grads = jax.jit(jax.grad(mean))(as_jax(*z))
    for view, grad in enumerate(grads):
        numeric = np.zeros_like(z[view])
        for place in np.ndindex(numeric.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [np.array(z[0]), np.array(z[1])]
                moved[view][place] += step
                values.append(naive["official_vicreg"](*moved)[0])
            numeric[place] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(grad, numeric, rtol=1e-3, atol=1e-4)
        assert np.abs(numeric).max() > 0.1


def test_a_collapsed_batch_has_a_finite_gradient():
    z = jnp.ones((8, 4))
    grad = jax.grad(lambda z: losses.variance_invariance_covariance(z, z)[0])(z)
    assert np.isfinite(grad).all()


def test_bfloat16_is_computed_in_float32():
    z = tuple(jnp.asarray(x, jnp.bfloat16) for x in embeddings(16, 6))
    loss, terms = vicreg(*z)
    assert {loss.dtype, *(term.dtype for term in terms.values())} == {jnp.dtype("float32")}
    # The inputs are rounded, the arithmetic is not: equal to the loop on the rounded inputs.
    rounded = naive["official_vicreg"](*(np.asarray(x, np.float64) for x in z))
    np.testing.assert_allclose([loss, *terms_of(terms)], rounded, rtol=1e-5)


def test_under_64_bits_and_the_checks_for_nan():
    z = as_jax(*embeddings(5, 3))
    expected = vicreg(*z)[0]
    with jax.enable_x64(True), jax.debug_nans(True):
        loss, terms = losses.variance_invariance_covariance(*z)
    assert {loss.dtype, *(term.dtype for term in terms.values())} == {jnp.dtype("float32")}
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


# Sharded == whole -------------------------------------------------------------------------------

SIZE, INPUT, DIM = 16, 6, 4


def step(params, views, axis_name, loss_axis="same"):
    """((loss, terms), gradients) of a linear encoder on the views [2,B,INPUT] of one device."""
    loss_axis = axis_name if loss_axis == "same" else loss_axis

    def loss_fn(params):
        z = jnp.einsum("vbi,id->vbd", views, params)
        return losses.variance_invariance_covariance(z[0], z[1], axis_name=loss_axis)

    return mean_value_and_grad(loss_fn, params, axis_name)


def encoder_and_views():
    params = 0.3 * np.random.default_rng(5).normal(size=(INPUT, DIM))
    return as_jax(params, np.stack(embeddings(SIZE, INPUT, seed=6)))


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "vmap"])
def test_four_devices_equal_one(mode):
    params, views = encoder_and_views()
    expected = jax.jit(functools.partial(step, axis_name=None))(params, views)
    local = functools.partial(step, axis_name=AXIS)
    if mode == "shard_map":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (AXIS,))
        specs = {"in_specs": (P(), P(None, AXIS)), "out_specs": P(), "check_vma": False}
        result = jax.jit(jax.shard_map(local, mesh=mesh, **specs))(params, views)
    else:
        pieces = np.stack(np.split(views, 4, axis=1))
        if mode == "pmap":
            mapped = jax.pmap(local, AXIS, in_axes=(None, 0), devices=jax.devices()[:4])
        else:
            mapped = jax.jit(jax.vmap(local, in_axes=(None, 0), axis_name=AXIS))
        every = mapped(params, pieces)
        result = jax.tree.map(lambda x: x[0], every)
        for device in range(1, 4):
            jax.tree.map(lambda x, d=device: np.testing.assert_array_equal(x[d], x[0]), every)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, result, expected)
    assert np.abs(expected[1]).max() > 0.1


def test_local_statistics_would_differ():
    """With per-device statistics both loss and gradients differ."""
    params, views = encoder_and_views()
    (loss, _), grads = step(params, views, None)
    local = functools.partial(step, axis_name=AXIS, loss_axis=None)
    pieces = np.stack(np.split(views, 4, axis=1))
    (single, _), other = jax.vmap(local, in_axes=(None, 0), axis_name=AXIS)(params, pieces)
    assert abs(float(single[0] - loss)) > 0.1
    assert np.abs(other[0] - grads).max() > 0.1


def test_one_example_a_device_is_enough():
    z = embeddings(4, 3)
    pieces = [x[:, None] for x in as_jax(*z)]
    local = functools.partial(losses.variance_invariance_covariance, axis_name=AXIS)
    loss, _ = jax.vmap(local, axis_name=AXIS)(*pieces)
    np.testing.assert_allclose(loss, np.full(4, naive["official_vicreg"](*z)[0]), rtol=1e-5)


# Misuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "options", "message"),
    [
        ((4, 8), (5, 8), {}, r"one shape \[B,D\], found z_a \(4, 8\) and z_b \(5, 8\)"),
        ((4, 8), (4, 7), {}, r"z_a \(4, 8\) and z_b \(4, 7\)"),
        ((8,), (8,), {}, r"z_a \(8,\) and z_b \(8,\)"),
        ((2, 4, 8), (2, 4, 8), {}, r"z_a \(2, 4, 8\)"),
        ((0, 8), (0, 8), {}, r"z_a \(0, 8\)"),
        ((1, 8), (1, 8), {}, r"2 or more examples for a variance, found z_a \(1, 8\)"),
        ((4, 8), (4, 8), {"variance": -1.0}, r"variance >= 0, found -1.0 with z_a \(4, 8\)"),
        ((4, 8), (4, 8), {"covariance": math.nan}, "covariance >= 0, found nan"),
    ],
)
def test_misuse_raises_with_the_shapes(shape_a, shape_b, options, message):
    with pytest.raises(ValueError, match=message):
        losses.variance_invariance_covariance(jnp.ones(shape_a), jnp.ones(shape_b), **options)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="float embeddings, found int32 and float32"):
        losses.variance_invariance_covariance(jnp.ones((4, 8), jnp.int32), jnp.ones((4, 8)))
