"""In-place updates of rows of a large leaf of the state, such as a memory bank.

`jssl.parallel.nonfinite.guard` keeps the old state when a step's loss is not finite. Selecting
between an old and a new bank needs both: a copy of the bank at every step, and a pass over all of
it. So a step that changes a few rows returns only these, and the selection is made for them only.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jssl.types import Array, PyTree


@flax.struct.dataclass
class RowUpdate:
    """A leaf of the next state: `array` with `rows` written at `index`.

    Attributes:
        array: [...,D], the leaf before the step; a row is D numbers of its last axis.
        index: int32 [R], flat row indices of `array`; duplicates must have equal rows. An index out
            of range is not written.
        rows: [R,D], in `array`'s dtype.
    """

    array: Array
    index: Array
    rows: Array


def write(update: RowUpdate, ok: Array | bool = True) -> Array:
    """Returns the new leaf: with the new rows if `ok`, else unchanged.

    Args:
        update: the rows to write.
        ok: bool [], or True.

    Returns:
        As `update.array`. Under donation it is written in place.

    Example:
        >>> bank = jnp.zeros((2, 2, 1))
        >>> print(write(RowUpdate(bank, jnp.array([3]), jnp.array([[5.0]]))).ravel())
        [0. 0. 0. 5.]
    """
    # Flattened, because GPUs would transpose the array for a scatter over another axis.
    flat = update.array.reshape(-1, update.array.shape[-1])
    rows = update.rows
    if ok is not True:
        rows = jnp.where(ok, rows, flat.at[update.index].get(mode="clip"))
    return flat.at[update.index].set(rows, mode="drop").reshape(update.array.shape)


def is_update(leaf: Any) -> bool:
    """Whether a leaf of a state is a `RowUpdate`."""
    return isinstance(leaf, RowUpdate)


class WritesRows:
    """Decorator of a train step that returns `RowUpdate`s; a call writes them.

    `jssl.parallel.nonfinite.guard` uses `deferred`, the undecorated step.
    """

    def __init__(self, step: Callable[..., tuple[PyTree, Any]]):
        self.deferred = step

    def __call__(self, state: PyTree, batch: Any) -> tuple[PyTree, Any]:
        new, metrics = self.deferred(state, batch)
        new = jax.tree.map(lambda x: write(x) if is_update(x) else x, new, is_leaf=is_update)
        return new, metrics
