"""The gradient helper against worked numbers, in every launch mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jssl.parallel import collectives

X = np.arange(8, dtype=np.float32).reshape(4, 2) + 1.0


def coupled_loss(params, x, axis_name):
    """Every example sees all examples: only right collectives give the right gradient."""
    h = x * params
    everyone = collectives.all_gather(h, axis_name)
    centred = h - collectives.pmean(jnp.mean(h), axis_name)
    return jnp.mean(h[:, None] * everyone[None, :]) + jnp.mean(centred**2)


def spread(mode, axis="devices"):
    def one(x):
        (loss, _), grads = collectives.mean_value_and_grad(
            lambda w: (coupled_loss(w, x, axis), None), jnp.float32(1.5), axis
        )
        return loss, grads

    if mode == "vmap":
        return jax.vmap(one, axis_name=axis, out_axes=None)(X)
    if mode == "pmap":
        return jax.pmap(one, axis_name=axis, out_axes=None)(X)
    mesh = Mesh(np.array(jax.devices()[:4]), (axis,))
    f = jax.shard_map(one, mesh=mesh, in_specs=P(axis), out_specs=P(), check_vma=False)
    return f(X.reshape(8))


@pytest.mark.parametrize("mode", ["vmap", "pmap", "shard_map"])
def test_gradient_is_that_of_the_whole_batch(mode):
    # With h = w x: loss = w^2 (mean(x)^2 + var(x)), by hand.
    x, w = X.reshape(-1), 1.5
    moment = float(np.mean(x) ** 2 + np.var(x))
    loss, grads = spread(mode)
    np.testing.assert_allclose(loss, w**2 * moment, rtol=1e-6)
    np.testing.assert_allclose(grads, 2 * w * moment, rtol=1e-6)


def test_without_an_axis_everything_is_the_identity():
    x = jnp.arange(3.0)
    assert collectives.psum(x, None) is x
    assert collectives.pmean(x, None) is x
    assert collectives.all_gather(x, None) is x
    assert int(collectives.global_index(7, None)) == 0


def test_global_index_counts_examples_over_devices():
    first = jax.pmap(lambda x: collectives.global_index(5, "i"), axis_name="i")(jnp.zeros(4))
    np.testing.assert_array_equal(first, [0, 5, 10, 15])
