"""A memory bank: one embedding of every example of the data set, in every view.

A bank is float32 [V,R,D], a leaf of the state; R is the number M of examples, rounded up to a
multiple of 1024 so that the rows can be split over devices. Under `shard_map` each of n devices
holds R / n contiguous rows, see `jssl.state.shards`; in the other modes the bank is replicated.
ImageNet's bank, 2 x 1.28 million x 128, takes 1.3 GB, or 1.3 GB / n.

Rows of other devices are not fetched. `score_candidates` gathers the anchors instead: each device
scores the anchors of all devices against its own rows, and the scores are summed.
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
    """Returns a bank of random rows, uniform in [-a, a] with a = 1 / sqrt(D / 3): mean norm 1.

    Args:
        key: typed PRNG key [].
        views: V.
        num_examples: M of the data set.
        dim: D.

    Returns:
        float32 [V,R,D], R the smallest multiple of 1024 that is at least M.

    Example:
        >>> init_bank(jax.random.key(0), views=2, num_examples=1500, dim=3).shape
        (2, 2048, 3)

    Reference: https://github.com/HobbitLong/CMC, NCE/NCEAverage.py.
    """
    bound = 1 / math.sqrt(dim / 3)
    shape = (views, bank_rows(num_examples), dim)
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def bank_rows(num_examples: int) -> int:
    """Returns R, the rows of a full bank for M examples.

    Example:
        >>> bank_rows(1024), bank_rows(1025)
        (1024, 2048)
    """
    return -(-num_examples // ROWS) * ROWS


def first_row(bank: Array, *, num_examples: int, axis_name: str | None = None) -> Array | None:
    """Returns the example of this device's first row, int32 []; None if the bank is replicated.

    Args:
        bank: float32 [V,R',D], the part on this device.
        num_examples: M of the data set.
        axis_name: the batch axis, or None on one device.

    Raises:
        ValueError: a bank that is neither full nor this device's equal part.

    Example:
        >>> first_row(jnp.zeros((2, 2048, 3)), num_examples=1500) is None
        True
    """
    local_rows, total_rows, devices = bank.shape[1], bank_rows(num_examples), axis_size(axis_name)
    if local_rows == total_rows:
        return None
    if local_rows * devices != total_rows:
        raise ValueError(
            f"A bank of {num_examples} examples has {total_rows} rows, found {local_rows} on each "
            f"of {devices} device(s)."
        )
    return axis_index(axis_name) * local_rows


def draw_candidates(
    key: Array, index: Array, first: Array, *, num_negatives: int, num_examples: int
) -> Array:
    """Returns for each example its own index in the data set, then K random ones.

    The draws are uniform over the data set WITH replacement, and may include the example itself.
    Example i of the batch draws with `fold_in(key, first + i)`: the same on any number of devices.

    Args:
        key: typed PRNG key [], of this step.
        index: int32 [B], indices of the examples in the data set.
        first: int32 [], index of the first example in the global batch.
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

    Reference: https://github.com/HobbitLong/CMC, NCE/alias_multinomial.py, with equal weights.
    """
    positions = jnp.asarray(first, jnp.uint32) + jnp.arange(len(index), dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)
    drawn = jax.vmap(lambda k: jax.random.randint(k, (num_negatives,), 0, num_examples))(keys)
    return jnp.concatenate([index.astype(jnp.int32)[:, None], drawn], axis=1)


def lookup(bank: Array, index: Array) -> Array:
    """Returns the rows of every view at `index` int32 [...]: [V,R,D] -> [V,...,D], no gradient."""
    V, M, D = bank.shape
    flat = jax.lax.stop_gradient(jnp.asarray(bank)).reshape(V * M, D)
    # Indices into the flat bank: bank[v] would copy the view first.
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
    """Scores this device's anchors against rows of the bank on any device.

    Args:
        score: `(features [V,B,D], rows [V,B,K+1,D]) -> [P,2,B,K+1]`, independent for each anchor.
        bank: float32 [V,R',D], the part on this device.
        features: float [V,B,D], of this device's examples.
        index: int32 [B,K+1], of their candidates in the data set.
        first: `first_row` of the bank.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [P,2,B,K+1], differentiable in `features`.

    Example:
        >>> score = lambda f, rows: jnp.einsum('vbd,vbkd->vbk', f, rows)[None]
        >>> bank = jnp.arange(3.0).reshape(1, 3, 1)
        >>> scores = score_candidates(
        ...     score, bank, jnp.ones((1, 2, 1)), jnp.array([[2, 0], [1, 1]]), first=None
        ... )
        >>> print(scores[0, 0])
        [[2. 0.]
         [1. 1.]]
    """
    if first is None:
        return score(features, lookup(bank, index))
    count = bank.shape[1]

    # A block looks up as many rows as one device would in a replicated bank; checkpointing avoids
    # keeping the rows of all n blocks for the gradient.
    @jax.checkpoint
    def block(anchors: Array, candidates: Array) -> Array:
        is_local = (candidates >= first) & (candidates < first + count)
        scores = score(jnp.swapaxes(anchors, 0, 1), lookup(bank, candidates - first))
        return jnp.where(is_local[None, None], scores, 0.0)

    n, B = axis_size(axis_name), len(index)
    anchors = all_gather(jnp.swapaxes(features, 0, 1), axis_name)  # [N,V,D]
    candidates = all_gather(index, axis_name)  # [N,K+1]
    blocks = (anchors.reshape(n, B, *anchors.shape[1:]), candidates.reshape(n, B, -1))
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
    """Updates the rows of the batch's examples by a moving average of their features.

        m_y <- normalise(momentum * m_y + (1 - momentum) * f)

    Args:
        bank: float32 [V,M,D].
        features: float [V,B,D], of unit length, on this device; without gradient.
        index: int32 [B], indices of the examples in the data set.
        momentum: in [0, 1]; CMC 0.5.
        first: `first_row` of the bank: a device writes only its own rows.
        axis_name: the batch axis, over which examples are gathered.

    Returns:
        A `RowUpdate` of unit rows for the next state. If an example occurs twice in the batch, the
        first is written.

    Raises:
        ValueError: features or index that do not match the bank.

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
    # Duplicates write the same values, so that the order has no effect.
    rows = rows[:, jnp.argmax(index[:, None] == index[None, :], axis=1)]
    row = jnp.arange(V, dtype=jnp.int32)[:, None] * M + local[None, :]
    row = jnp.where((local >= 0) & (local < M), row, V * M)  # out of range: not written
    return RowUpdate(jnp.asarray(bank), row.reshape(-1), rows.reshape(-1, D))
