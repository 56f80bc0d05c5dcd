"""Launch modes with the nets' real ReLU; tests/test_methods.py compares them to 1e-5 with SiLU."""

import jax
import numpy as np
import pytest
from helpers import small_config, start, tiles


def update(config, mode):
    """The change of every parameter by one step."""
    launcher, _, state, step = start(config, mode)
    first = jax.tree.map(np.asarray, state.params)  # before the step, which may reuse its memory
    state, _ = step(state, launcher.put_batch(tiles(config.batch_size)), np.int32(0))
    return jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, first)


@pytest.mark.parametrize(("method", "mode"), [("supervised", "pmap"), ("supervised", "shard_map")])
def test_one_step_is_that_of_plain_jit(method, mode):
    """Up to 2 % of a leaf's update.

    A ReLU's derivative jumps at zero. A unit that rounding moves across it changes the gradient by
    a finite amount, whatever is right or wrong: one of some thousand units is well below 2 %, and a
    mean that is taken wrongly over four devices is a factor of 4.
    """
    config = small_config(method)
    config.optim.warmup_epochs = 0.0
    pairs = zip(*map(jax.tree.leaves, (update(config, mode), update(config, "jit"))), strict=True)
    for found, expected in pairs:
        assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected) + 1e-8
