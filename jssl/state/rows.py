"""Rows written into a large leaf of the state, a queue or a memory bank, where it lies.

`jssl.parallel.nonfinite.guard` keeps the old state when a step's loss is not finite. A choice
between an old and a new bank needs both: a copy of the bank at every step, and a pass over all of
it. So a step that changes a few rows says which, and the choice is made for those rows alone.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jssl.types import Array, PyTree


@flax.struct.dataclass
class RowUpdate:
    """A leaf of the next state: `array` with `rows` in the places `index`.

    Attributes:
        array: [...,D], the leaf before the step; a row is D numbers of its last axis.
        index: int32 [R], places among all rows of `array` counted in order; where one comes
            twice, its rows must be equal. A place past the end is not written.
        rows: [R,D], in `array`'s dtype.
    """

    array: Array
    index: Array
    rows: Array


def write(update: RowUpdate, ok: Array | bool = True) -> Array:
    """The new leaf: the rows where `ok` holds, what was there before where it does not.

    Args:
        update: what to write.
        ok: bool [], or True.

    Returns:
        As `update.array`. Under donation it is written where it lies: what is kept is read before,
        because `ok` has to be known.

    Example:
        >>> bank = jnp.zeros((2, 2, 1))
        >>> print(write(RowUpdate(bank, jnp.array([3]), jnp.array([[5.0]]))).ravel())
        [0. 0. 0. 5.]
    """
    # A scatter over one leading axis: GPUs would transpose the array for any other.
    flat = update.array.reshape(-1, update.array.shape[-1])
    rows = update.rows
    if ok is not True:
        rows = jnp.where(ok, rows, flat.at[update.index].get(mode="clip"))
    return flat.at[update.index].set(rows, mode="drop").reshape(update.array.shape)


def is_update(leaf: Any) -> bool:
    """Whether a leaf of a state is a `RowUpdate`."""
    return isinstance(leaf, RowUpdate)


class WritesRows:
    """A train step whose next state holds `RowUpdate`s; called, it writes them.

    Used as a decorator. `jssl.parallel.nonfinite.guard` takes `deferred`, the step as it was
    written.
    """

    def __init__(self, step: Callable[..., tuple[PyTree, Any]]):
        self.deferred = step

    def __call__(self, state: PyTree, batch: Any) -> tuple[PyTree, Any]:
        new, metrics = self.deferred(state, batch)
        new = jax.tree.map(lambda x: write(x) if is_update(x) else x, new, is_leaf=is_update)
        return new, metrics
