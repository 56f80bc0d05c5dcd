"""A memory bank: one embedding of every example of the data set, in every view.

A bank is float32 [V,R,D], a leaf of the state; R is the number M of examples, rounded up to whole
thousands (of 1024) so that devices can share the rows. Under `shard_map` each of n devices holds
the R / n rows from its place on, see `jssl.state.shards`; in the other modes a leaf is the same on
every device. ImageNet's bank, 2 x 1.28 million x 128, takes 1.3 GB, or 1.3 GB / n.

Rows that another device holds are not fetched. `score_candidates` sends the anchors round instead:
each device scores those of all devices against the rows it has, and the scores are summed.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jssl.numerics import unit_rows
from jssl.parallel.collectives import all_gather, axis_index, axis_size, psum_scatter
from jssl.state.rows import RowUpdate
from jssl.types import Array

ROWS = 1024  # a bank's rows are a multiple of it


def init_bank(key: Array, *, views: int, num_examples: int, dim: int) -> Array:
    """A bank of random rows, uniform in [-a, a] with a = 1 / sqrt(D / 3): length 1 on average.

    Args:
        key: typed PRNG key [].
        views: V.
        num_examples: M of the data set.
        dim: D.

    Returns:
        float32 [V,R,D], R the first multiple of 1024 that is not below M.

    Example:
        >>> init_bank(jax.random.key(0), views=2, num_examples=1500, dim=3).shape
        (2, 2048, 3)

    Reference: https://github.com/HobbitLong/CMC, NCE/NCEAverage.py.
    """
    bound = 1 / math.sqrt(dim / 3)
    shape = (views, bank_rows(num_examples), dim)
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def bank_rows(num_examples: int) -> int:
    """R, the rows of a whole bank for M examples.

    Example:
        >>> bank_rows(1024), bank_rows(1025)
        (1024, 2048)
    """
    return -(-num_examples // ROWS) * ROWS


def first_row(bank: Array, *, num_examples: int, axis_name: str | None = None) -> Array | None:
    """The example of this device's first row, int32 []; None where the bank is whole.

    Args:
        bank: float32 [V,R',D] as it lies on this device.
        num_examples: M of the data set.
        axis_name: the batch axis, or None on one device.

    Raises:
        ValueError: a bank that is neither whole nor this device's equal part.

    Example:
        >>> first_row(jnp.zeros((2, 2048, 3)), num_examples=1500) is None
        True
    """
    here, whole, devices = bank.shape[1], bank_rows(num_examples), axis_size(axis_name)
    if here == whole:
        return None
    if here * devices != whole:
        raise ValueError(
            f"A bank of {num_examples} examples has {whole} rows, found {here} on each of "
            f"{devices} device(s)."
        )
    return axis_index(axis_name) * here


def draw_candidates(
    key: Array, index: Array, first: Array, *, num_negatives: int, num_examples: int
) -> Array:
    """For each example its own place in the data set, then K drawn ones.

    The draws are uniform over the data set WITH replacement, the example's own place among them.
    Example i of the batch draws with `fold_in(key, first + i)`: the same on any number of devices.

    Args:
        key: typed PRNG key [], of this step.
        index: int32 [B], the examples' places in the data set.
        first: int32 [], index of the first of them in the global batch.
        num_negatives: K.
        num_examples: M.

    Returns:
        int32 [B,K+1]; column 0 is `index`.

    Example:
        >>> y = jnp.array([7, 2])
        >>> draw_candidates(
        ...     jax.random.key(0), y, jnp.int32(0), num_negatives=3, num_examples=9
        ... )[:, 0]
        Array([7, 2], dtype=int32)

    Reference: https://github.com/HobbitLong/CMC, NCE/alias_multinomial.py, whose weights are all
        equal, so that no alias is ever taken.
    """
    places = jnp.asarray(first, jnp.uint32) + jnp.arange(len(index), dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(places)
    drawn = jax.vmap(lambda k: jax.random.randint(k, (num_negatives,), 0, num_examples))(keys)
    return jnp.concatenate([index.astype(jnp.int32)[:, None], drawn], axis=1)


def lookup(bank: Array, index: Array) -> Array:
    """The rows of every view at `index` int32 [...]: [V,R,D] -> [V,...,D], without gradient."""
    V, M, D = bank.shape
    flat = jax.lax.stop_gradient(jnp.asarray(bank)).reshape(V * M, D)
    # A view's rows by their places among all: bank[v] would copy the view first.
    index = jnp.asarray(index)[None] + M * jnp.arange(V, dtype=jnp.int32).reshape(
        (V,) + (1,) * jnp.ndim(index)
    )
    return flat.at[index].get(mode="clip")


def score_candidates(
    score: Callable[[Array, Array], Array],
    bank: Array,
    features: Array,
    index: Array,
    *,
    first: Array | None,
    axis_name: str | None = None,
) -> Array:
    """Scores of this device's anchors with rows of the bank, wherever these lie.

    Args:
        score: `(features [V,B,D], rows [V,B,K+1,D]) -> [P,2,B,K+1]`, an anchor's scores from its
            own rows alone.
        bank: float32 [V,R',D], as it lies on this device.
        features: float [V,B,D], of this device's examples.
        index: int32 [B,K+1], of their candidates in the data set.
        first: `first_row` of the bank.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [P,2,B,K+1], differentiable in `features`.

    Example:
        >>> score = lambda f, rows: jnp.einsum('vbd,vbkd->vbk', f, rows)[None]
        >>> bank = jnp.arange(3.0).reshape(1, 3, 1)
        >>> found = score_candidates(
        ...     score, bank, jnp.ones((1, 2, 1)), jnp.array([[2, 0], [1, 1]]), first=None
        ... )
        >>> print(found[0, 0])
        [[2. 0.]
         [1. 1.]]
    """
    if first is None:
        return score(features, lookup(bank, index))
    count = bank.shape[1]

    # The rows of one block are as many as one device would look up in a whole bank; they are
    # looked up again for the gradient, because all blocks' would be n times as many.
    @jax.checkpoint
    def block(anchors: Array, wanted: Array) -> Array:
        here = (wanted >= first) & (wanted < first + count)
        scores = score(jnp.swapaxes(anchors, 0, 1), lookup(bank, wanted - first))
        return jnp.where(here[None, None], scores, 0.0)

    n, B = axis_size(axis_name), len(index)
    anchors = all_gather(jnp.swapaxes(features, 0, 1), axis_name)  # [N,V,D]
    wanted = all_gather(index, axis_name)  # [N,K+1]
    blocks = (anchors.reshape(n, B, *anchors.shape[1:]), wanted.reshape(n, B, -1))
    parts = jax.lax.map(lambda x: block(*x), blocks)  # [n,P,2,B,K+1]
    return psum_scatter(parts, axis_name)[0]


def update_bank(
    bank: Array,
    features: Array,
    index: Array,
    *,
    momentum: float,
    first: Array | None = None,
    axis_name: str | None = None,
) -> RowUpdate:
    """Moves the rows of the batch's examples towards their features; no other row changes.

        m_y <- normalise(momentum * m_y + (1 - momentum) * f)

    Args:
        bank: float32 [V,M,D].
        features: float [V,B,D], of unit length, on this device; taken without gradient.
        index: int32 [B], the examples' places in the data set.
        momentum: in [0, 1]; CMC 0.5.
        first: `first_row` of the bank: of a part, only the rows it has are written.
        axis_name: the batch axis: the examples of all devices are written on each.

    Returns:
        A `RowUpdate` of unit rows for the next state. An example that comes twice in the batch is
        written by the first of the two.

    Raises:
        ValueError: features or index that do not fit the bank.

    Example:
        >>> from jssl.state.rows import write
        >>> bank = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
        >>> update = update_bank(bank, jnp.array([[[0.0, 1.0]]]), jnp.array([1]), momentum=0.5)
        >>> print(write(update).round(3))
        [[[1.    0.   ]
          [0.707 0.707]]]

    Reference: https://github.com/HobbitLong/CMC, NCE/NCEAverage.py.
    """
    V, M, D = bank.shape
    if features.shape != (V, len(index), D):
        raise ValueError(
            f"A bank {bank.shape} expects features ({V}, {len(index)}, {D}) for index "
            f"{index.shape}, found {features.shape}."
        )
    features = jnp.swapaxes(jax.lax.stop_gradient(features), 0, 1).astype(bank.dtype)
    features = jnp.swapaxes(all_gather(features, axis_name), 0, 1)  # [V,N,D]
    index = all_gather(index.astype(jnp.int32), axis_name)  # [N]
    local = index if first is None else index - first
    rows = momentum * lookup(bank, local) + (1 - momentum) * features
    rows = unit_rows(rows)
    # All writers of one row write the same, in whatever order they come.
    rows = rows[:, jnp.argmax(index[:, None] == index[None, :], axis=1)]
    place = jnp.arange(V, dtype=jnp.int32)[:, None] * M + local[None, :]
    place = jnp.where((local >= 0) & (local < M), place, V * M)  # past the end: not written
    return RowUpdate(jnp.asarray(bank), place.reshape(-1), rows.reshape(-1, D))
