"""All collectives; each is the identity when `axis_name` is None.

A step is written for one device. Under `pmap`, `shard_map` and `vmap` its batch axis has a name,
over which these functions communicate; under plain `jit` the name is None: one device has the whole
batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from jssl.types import Array, PyTree

# Sharding of a replicated array while a step is traced under `fsdp`, else None.
_REPLICATED: ContextVar[Any] = ContextVar("replicated", default=None)


@contextmanager
def tracing_fsdp(replicated: Any) -> Iterator[None]:
    """Makes `whole` use this sharding while a step is traced."""
    token = _REPLICATED.set(replicated)
    try:
        yield
    finally:
        _REPLICATED.reset(token)


def whole(params: PyTree) -> PyTree:
    """Gathers parameters of which each device keeps a part (`fsdp`); else the identity.

    Differentiable: gradients are summed over devices as whole arrays, and split afterwards.
    Without this the compiler gives each device the part of a gradient that it keeps, and gathers
    the activations of the whole batch for it.
    """
    replicated = _REPLICATED.get()
    if replicated is None:
        return params
    return jax.lax.with_sharding_constraint(params, replicated)


def axis_size(axis_name: str | None) -> int:
    """Returns the number of devices along the axis, 1 without one.

    Example:
        >>> axis_size(None)
        1
    """
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def axis_index(axis_name: str | None) -> Array:
    """Returns this device's index along the axis, int32 [], 0 without one."""
    return jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Averages every leaf over the axis."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sums every leaf over the axis."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def all_gather(x: Array, axis_name: str | None) -> Array:
    """Concatenates the devices' leading axes in device order: [B,...] -> [N,...].

    Differentiable: the transpose is a reduce-scatter, so that a device's rows receive the
    gradient of the losses of all devices.
    """
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, axis=0, tiled=True)


def psum_scatter(x: Array, axis_name: str | None) -> Array:
    """Sums over the axis and scatters the leading axis over devices: [n,...] -> [1,...].

    Differentiable: the transpose is `all_gather`.
    """
    if axis_name is None:
        return x
    return jax.lax.psum_scatter(x, axis_name, scatter_dimension=0, tiled=True)


def global_index(local_batch: int, axis_name: str | None) -> Array:
    """Returns the index in the global batch of this device's first example, int32 []."""
    return axis_index(axis_name) * local_batch


def mean_value_and_grad(
    loss_fn: Callable[[PyTree], tuple[Array, Any]], params: PyTree, axis_name: str | None
) -> tuple[tuple[Array, Any], PyTree]:
    """Computes value and gradient of the mean over devices of `loss_fn`.

    The loss is averaged inside the differentiated function and the gradients outside. Both are
    needed for gradients through gathered embeddings and global batch statistics: a local loss
    omits them, and summing twice counts them n times.

    Args:
        loss_fn: `params -> (loss [], aux)`, the mean over this device's examples.
        params: pytree, equal on every device.
        axis_name: the batch axis, or None on one device.

    Returns:
        `((loss, aux), grads)`: loss and grads equal on every device, aux as from `loss_fn`.

    Example:
        >>> (loss, _), grads = mean_value_and_grad(lambda w: (w**2, None), jnp.float32(3.0), None)
        >>> print(loss, grads)
        9.0 6.0
    """

    def mean_loss(params: PyTree) -> tuple[Array, Any]:
        loss, aux = loss_fn(whole(params))
        return pmean(loss, axis_name), aux

    (loss, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    return (loss, aux), pmean(grads, axis_name)
