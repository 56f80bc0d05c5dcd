"""Stochastic depth and dropout, independent of the number of devices.

The draw for a row depends only on the key and on the row's index in the GLOBAL batch.
"""

import jax
import jax.numpy as jnp

from jssl.parallel.collectives import global_index
from jssl.types import Array


def row_numbers(rows: Array | None, batch: int, axis_name: str | None) -> Array:
    """Returns `rows`, or by default the indices in the global batch: int32 [B].

    Args:
        rows: int32 [B], the number of each example; [] that of the first; or None.
        batch: B.
        axis_name: the batch axis.
    """
    if rows is None:
        return global_index(batch, axis_name) + jnp.arange(batch)
    if rows.ndim == 0:
        return rows + jnp.arange(batch)
    if rows.shape != (batch,):
        raise ValueError(f"rows expects one number for each of {batch} images, found {rows.shape}.")
    return rows


def stochastic_depth(key: Array, x: Array, *, rate: float, rows: Array) -> Array:
    """Drops a residual branch per example: x / keep with probability keep = 1 - rate, or 0.

    Args:
        key: typed PRNG key [].
        x: [B,...], output of the branch.
        rate: probability of a drop, in [0, 1).
        rows: int32 [B], the number of each example.

    Returns:
        [B,...], of x's dtype; its expectation is x.

    Raises:
        ValueError: rate outside [0, 1).

    Example:
        >>> x = jnp.ones((4, 1))
        >>> kept = stochastic_depth(jax.random.key(0), x, rate=0.5, rows=jnp.arange(4))
        >>> bool(jnp.all((kept == 0) | (kept == 2)))
        True

    Reference:
        Huang et al., ECCV 2016, https://arxiv.org/abs/1603.09382; divided by keep in training, as
        in https://github.com/google-research/noisystudent, utils.py.
    """
    return _drop(key, x, rate, rows, (1,) * (x.ndim - 1))


def dropout(key: Array, x: Array, *, rate: float, rows: Array) -> Array:
    """Drops values independently: x / keep with probability keep = 1 - rate, or 0.

    Args:
        key: typed PRNG key [].
        x: [B,...].
        rate: probability of a drop, in [0, 1).
        rows: int32 [B], the number of each example.

    Returns:
        [B,...], of x's dtype; its expectation is x.

    Raises:
        ValueError: rate outside [0, 1).

    Example:
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.all(dropout(jax.random.key(0), x, rate=0.0, rows=jnp.arange(2)) == x))
        True

    Reference:
        Srivastava et al., JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
    return _drop(key, x, rate, rows, x.shape[1:])


def _drop(key: Array, x: Array, rate: float, rows: Array, shape: tuple[int, ...]) -> Array:
    if not 0 <= rate < 1:
        raise ValueError(f"Expected a drop rate in [0, 1), found {rate}.")
    if rate == 0:
        return x
    keep = 1 - rate
    uniform = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), shape))(rows)
    return jnp.where(uniform < keep, x / keep, jnp.zeros((), x.dtype)).astype(x.dtype)
