"""The terms of the dVAE's bound: quadrature, closed forms, and the numbers of the recipe."""

import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.5), (1.5, 0.3), (-0.7, 0.9)])
def test_the_logit_laplace_density_integrates_to_one(mu, b):
    logit = np.linspace(-25.0, 25.0, 200_001)  # even steps of the logit: dx = x (1 - x) dlogit
    x = 1 / (1 + np.exp(-logit))
    keep = (x > 1e-6) & (x < 1 - 1e-6)  # float32 keeps 1 - x to 6e-8
    full = np.full(keep.sum(), mu), np.full(keep.sum(), np.log(b))
    density = np.exp(-np.asarray(losses.logit_laplace_nll(x[keep], *full), np.float64))
    result = np.sum(density * (x * (1 - x))[keep]) * (logit[1] - logit[0])
    np.testing.assert_allclose(result, 1.0, atol=1e-3)


def test_logit_laplace_value_and_mode():
    result = losses.logit_laplace_nll(*map(jnp.array, ([0.7], [0.5], [np.log(0.3)])))
    np.testing.assert_allclose(result, [-0.91381], atol=1e-5)
    mus = jnp.linspace(-2.0, 2.0, 41)
    x = jnp.full(41, 1 / (1 + np.exp(-0.5)))
    nll = losses.logit_laplace_nll(x, mus, jnp.zeros(41))
    np.testing.assert_allclose(mus[jnp.argmin(nll)], 0.5, atol=1e-6)


def test_kl_to_uniform_in_closed_form():
    logits = np.zeros((2, 3, 8192), np.float32)
    logits[1, :, 5] = 1e4
    kl = losses.kl_to_uniform(jnp.array(logits))
    assert kl.shape == (2, 3)
    # 8192 float32 terms that sum to ln 8192 = 9: their order is the processor's.
    np.testing.assert_allclose(kl[0], 0.0, atol=3e-5)
    np.testing.assert_allclose(kl[1], 9.011, atol=5e-4)  # ln 8192


def test_kl_per_token_equals_a_naive_sum():
    """Public trainers take the sum over batch and tokens: 196 times this mean for 4 x 49."""
    q = np.random.default_rng(0).dirichlet(np.ones(64), (4, 49))
    naive = np.zeros((4, 49))
    for i, j, k in np.ndindex(q.shape):
        naive[i, j] += q[i, j, k] * np.log(64 * q[i, j, k])
    result = losses.kl_to_uniform(jnp.log(jnp.array(q)))
    np.testing.assert_allclose(result, naive, rtol=1e-4, atol=1e-5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        losses.logit_laplace_nll(jnp.ones(2), jnp.ones(2), jnp.ones(1))
    with pytest.raises(ValueError, match="one shape"):
        losses.squared_error(jnp.ones((2, 1)), jnp.ones(2))
