"""JAX's own switches: 64 bits change no number of a run, other PRNGs and checks work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch_of, small_config, tiles

from jssl import losses, methods
from jssl.run import build

WIDE = (jnp.float64, jnp.int64, jnp.uint64)


def traced(config):
    """State, next state, metrics and outputs, as shapes and dtypes."""
    method, _ = build.make_method(config, axis_name=None)
    batch = batch_of(config, config.batch_size)
    state = jax.eval_shape(lambda: build.first_state(config, method, config.batch_size))
    return (
        state,
        *jax.eval_shape(method.train_step, state, batch),
        jax.eval_shape(method.embed, state, batch["image"]),
    )


@pytest.mark.parametrize("name", methods.names())
def test_a_step_is_the_same_with_64_bits(name):
    config = small_config(name)
    expected = jax.tree.leaves(traced(config))
    with jax.enable_x64(True):
        found = jax.tree.leaves(traced(config))
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in expected]
    assert not any(x.dtype in WIDE for x in found)


def test_the_draws_of_a_run_are_the_same_with_64_bits():
    """Wider random numbers would be other ones."""
    config = small_config("simclr")
    method, _ = build.make_method(config, axis_name=None)
    run = lambda: method.views(jax.random.key(3), tiles(2)["image"], jnp.int32(0))  # noqa: E731
    expected = np.asarray(jax.jit(run)())
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.jit(run)(), expected)


@pytest.mark.parametrize("prng", ["rbg", "unsafe_rbg"])
def test_another_generator_of_random_numbers(prng):
    with jax.default_prng_impl(prng):
        for name in ("simclr", "cmc", "deit", "noisy_student"):
            state, after, *_ = traced(small_config(name))
            assert jax.tree.structure(state) == jax.tree.structure(after)


Z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LOSSES = {
    "nt_xent": lambda: losses.nt_xent(Z, Z[::-1].copy(), temperature=0.5),
    "info_nce": lambda: losses.info_nce(Z, Z, Z[::-1].copy(), temperature=0.5),
    "symmetric_info_nce": lambda: losses.symmetric_info_nce(Z, Z, Z, Z, temperature=0.5),
    "cross_entropy": lambda: losses.cross_entropy(Z, np.array([0, 1, 2, 0])),
    "soft_distillation": lambda: losses.soft_distillation(Z, Z[::-1].copy()),
    "kl_to_uniform": lambda: losses.kl_to_uniform(Z),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_and_pass_the_checks_for_nan(name):
    expected = LOSSES[name]()
    masked = Z.copy()
    masked[:, 2] = -np.inf
    with jax.enable_x64(True), jax.debug_nans(True):
        found = LOSSES[name]()
        assert np.isfinite(losses.cross_entropy(masked, np.array([0, 1, 1, 0]))).all()
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
