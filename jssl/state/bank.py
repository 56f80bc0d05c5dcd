"""A memory bank: one embedding of every example of the data set, in every view.

A bank is float32 [V,M,D], a leaf of the state: the same on every device. The rows of the global
batch are gathered before they are written. A bank split over devices by index is not offered: a
leaf of the state has one value in all four launch modes, and `pmap` and `vmap:N` have no other.
ImageNet's, 2 x 1.28 million x 128, takes 1.3 GB of each device.
"""

import math

import jax
import jax.numpy as jnp

from jssl.collectives import all_gather
from jssl.state.rows import RowUpdate
from jssl.types import Array


def init_bank(key: Array, *, views: int, num_examples: int, dim: int) -> Array:
    """A bank of random rows, uniform in [-a, a] with a = 1 / sqrt(D / 3): length 1 on average.

    Args:
        key: typed PRNG key [].
        views: V.
        num_examples: M of the data set.
        dim: D.

    Returns:
        float32 [V,M,D].

    Example:
        >>> init_bank(jax.random.key(0), views=2, num_examples=5, dim=3).shape
        (2, 5, 3)

    Reference: https://github.com/HobbitLong/CMC, NCE/NCEAverage.py.
    """
    bound = 1 / math.sqrt(dim / 3)
    shape = (views, num_examples, dim)
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


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
    """The rows of every view at `index` int32 [...]: [V,M,D] -> [V,...,D], without gradient."""
    V, M, D = bank.shape
    flat = jax.lax.stop_gradient(jnp.asarray(bank)).reshape(V * M, D)
    # A view's rows by their places among all: bank[v] would copy the view first.
    index = jnp.asarray(index)[None] + M * jnp.arange(V, dtype=jnp.int32).reshape(
        (V,) + (1,) * jnp.ndim(index)
    )
    return flat.at[index].get(mode="clip")


def update_bank(
    bank: Array, features: Array, index: Array, *, momentum: float, axis_name: str | None = None
) -> RowUpdate:
    """Moves the rows of the batch's examples towards their features; no other row changes.

        m_y <- normalise(momentum * m_y + (1 - momentum) * f)

    Args:
        bank: float32 [V,M,D].
        features: float [V,B,D], of unit length, on this device; taken without gradient.
        index: int32 [B], the examples' places in the data set.
        momentum: in [0, 1]; CMC 0.5.
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
    rows = momentum * lookup(bank, index) + (1 - momentum) * features
    rows = rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(rows**2, axis=-1, keepdims=True), 1e-12))
    # All writers of one row write the same, in whatever order they come.
    rows = rows[:, jnp.argmax(index[:, None] == index[None, :], axis=1)]
    place = jnp.arange(V, dtype=jnp.int32)[:, None] * M + index[None, :]
    return RowUpdate(jnp.asarray(bank), place.reshape(-1), rows.reshape(-1, D))
