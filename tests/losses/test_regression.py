"""BYOL's loss against the official function's recorded outputs, closed forms and its range."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "byol_official.npz")
q_a, q_b, z_a, z_b = (GOLDEN[name] for name in ("q_a", "q_b", "z_a", "z_b"))
symmetric = jax.jit(losses.symmetric_regression)


def test_equals_the_official_loss_per_example():
    one = losses.normalized_regression(q_a, z_b)
    assert one.shape == (10,) and one.dtype == jnp.float32
    np.testing.assert_allclose(one, GOLDEN["one_direction"], rtol=1e-5)
    np.testing.assert_allclose(symmetric(q_a, q_b, z_a, z_b), GOLDEN["both_directions"], rtol=1e-5)
    # Each view predicts the OTHER one: predicting its own is another number.
    crossed = symmetric(q_a, q_b, z_b, z_a)
    assert np.abs(crossed - GOLDEN["both_directions"]).max() > 0.5


def test_gradients_equal_the_official_ones_and_targets_have_none():
    def mean(*z):
        return jnp.mean(losses.symmetric_regression(*z))

    grads = jax.jit(jax.grad(mean, argnums=(0, 1, 2, 3)))(q_a, q_b, z_a, z_b)
    np.testing.assert_allclose(grads[0], GOLDEN["grad_q_a"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads[1], GOLDEN["grad_q_b"], rtol=1e-4, atol=1e-6)
    assert np.abs(GOLDEN["grad_q_a"]).max() > 1e-3
    for grad in grads[2:]:
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_is_two_minus_two_cosines():
    cosine = np.sum(q_a * z_b, 1) / np.linalg.norm(q_a, axis=1) / np.linalg.norm(z_b, axis=1)
    np.testing.assert_allclose(losses.normalized_regression(q_a, z_b), 2 - 2 * cosine, rtol=1e-4)


@pytest.mark.parametrize(("angle", "expected"), [(0, 0), (60, 2), (90, 4), (120, 6), (180, 8)])
def test_range_and_closed_form(angle, expected):
    turned = np.array([[np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]], np.float32)
    axis = np.array([[5.0, 0.0]], np.float32)
    loss = symmetric(axis, 3 * turned, 0.1 * axis, turned)
    cross = symmetric(axis, axis, turned, turned)
    np.testing.assert_allclose(cross, [expected], atol=1e-5)
    # The second view's prediction and target are at the angle too, and so is the first's.
    np.testing.assert_allclose(loss, [expected], atol=1e-5)


def test_loss_of_unrelated_vectors_is_four():
    z = np.random.default_rng(0).normal(size=(4, 512, 256)).astype(np.float32)
    loss = symmetric(*z)
    assert 0 <= loss.min() and loss.max() <= 8
    # A direction is 2 - 2 cos with a cosine of deviation 1/16: the mean of 512 sums of two.
    assert abs(float(jnp.mean(loss)) - 4) < 4 * 2 * np.sqrt(2) / 16 / np.sqrt(512)


def test_norms_have_no_effect():
    lengths = np.geomspace(1e-3, 1e3, 10, dtype=np.float32)[:, None]
    loss = symmetric(q_a, q_b, z_a, z_b)
    np.testing.assert_allclose(symmetric(lengths * q_a, q_b, z_a, z_b), loss, rtol=1e-4)
    np.testing.assert_allclose(symmetric(q_a, q_b, z_a, z_b / lengths), loss, rtol=1e-4)


def test_zeros_and_bfloat16_are_finite():
    def mean(q):
        return jnp.mean(losses.normalized_regression(q, z_a))

    value, grad = jax.value_and_grad(mean)(np.zeros_like(z_a))
    assert value == pytest.approx(1.0, abs=1e-5) and np.isfinite(grad).all()
    half = losses.normalized_regression(jnp.asarray(q_a, jnp.bfloat16), jnp.asarray(z_b))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, GOLDEN["one_direction"], atol=0.02)


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        (((4, 8), (5, 8)), r"\(4, 8\), target float32 \(5, 8\)"),
        (((8,), (8,)), r"one shape \[B,D\], found prediction float32 \(8,\)"),
        (((0, 8), (0, 8)), r"\(0, 8\)"),
    ],
)
def test_misuse_raises_with_the_shapes(shapes, result):
    with pytest.raises(ValueError, match=result):
        losses.normalized_regression(*(jnp.ones(shape) for shape in shapes))


def test_integers_and_a_third_shape_are_refused():
    with pytest.raises(ValueError, match=r"float arrays, found prediction int32 \(4, 8\)"):
        losses.normalized_regression(jnp.ones((4, 8), jnp.int32), jnp.ones((4, 8)))
    x = jnp.ones((4, 8))
    with pytest.raises(ValueError, match=r"symmetric_regression .* z_b float32 \(4, 9\)"):
        losses.symmetric_regression(x, x, x, jnp.ones((4, 9)))
