"""Predictive learning's loss against a loop of its equation, its gradients, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

rng = np.random.default_rng(0)
FOUND, WANTED = rng.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_equals_a_loop_over_values(norm, power):
    expected = [0.0, 0.0, 0.0]
    for b, i, j, c in np.ndindex(FOUND.shape):
        expected[b] += abs(float(FOUND[b, i, j, c]) - float(WANTED[b, i, j, c])) ** power / 40
    found = losses.view_prediction(FOUND, WANTED, norm=norm)
    assert found.shape == (3,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradient_of_l1_is_a_sign_and_of_l2_the_error():
    def total(norm):
        return jax.grad(lambda v: jnp.sum(losses.view_prediction(v, WANTED, norm=norm)))(FOUND)

    error = FOUND - WANTED
    np.testing.assert_allclose(total("l1"), np.sign(error) / 40, rtol=1e-6)
    np.testing.assert_allclose(total("l2"), 2 * error / 40, rtol=1e-5, atol=1e-8)


def test_the_best_constant_is_the_median_of_l1_and_the_mean_of_l2():
    values = np.array([0.0, 0.0, 0.1, 0.1, 4.8], np.float32)  # median 0.1, mean 1
    constants = np.linspace(0, 2, 201, dtype=np.float32)
    table = np.repeat(constants[:, None], 5, axis=1)
    wanted = np.repeat(values[None], len(constants), axis=0)
    for norm, best in (("l1", 0.1), ("l2", 1.0)):
        found = np.asarray(losses.view_prediction(table, wanted, norm=norm))
        assert constants[found.argmin()] == pytest.approx(best)


def test_it_computes_in_float32():
    """300 squared is no number of float16."""
    far = losses.view_prediction(jnp.full((1, 2), 300, jnp.float16), jnp.zeros((1, 2), jnp.float16))
    np.testing.assert_array_equal(far, [90000.0])


@pytest.mark.parametrize(
    ("found", "wanted", "norm", "message"),
    [
        (
            FOUND,
            WANTED[:2],
            "l2",
            r"prediction float32 \(3, 4, 5, 2\), target float32 \(2, 4, 5, 2\)",
        ),
        (FOUND[:, 0, 0, 0], WANTED[:, 0, 0, 0], "l2", r"\[B,...\], found .*\(3,\)"),
        (FOUND[:0], WANTED[:0], "l1", r"\(0, 4, 5, 2\)"),
        (np.int32(FOUND), WANTED, "l2", "prediction int32"),
        (FOUND, WANTED, "l3", "'l1' or 'l2', found 'l3'"),
    ],
)
def test_refuses_what_it_cannot_compare(found, wanted, norm, message):
    with pytest.raises(ValueError, match=message):
        losses.view_prediction(found, wanted, norm=norm)
