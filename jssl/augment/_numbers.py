"""Random numbers of an augmentation: each operation has its own key."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl.types import Array


def uniform_numbers(key: Array, counts: Mapping[str, int], views: int) -> dict[str, Array]:
    """Draws the random numbers of each operation from a key of its own.

    The index of an operation in `counts` is folded into the key. So adding an operation at the end,
    or drawing more numbers for one, does not change the numbers of the others.

    Args:
        key: typed PRNG key [], of one image.
        counts: numbers of each operation for a view.
        views: V.

    Returns:
        float32 [V,count] in [0, 1) for each operation.

    Example:
        >>> draws = uniform_numbers(jax.random.key(0), {'flip': 1, 'jitter': 9}, views=2)
        >>> draws['jitter'].shape
        (2, 9)
    """
    # One call for all: each further one costs half a second of compilation. An operation takes the
    # first of its rows, which do not depend on the number of rows.
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(len(counts)))
    rows = max(counts.values())
    u = jax.vmap(lambda key: jax.random.uniform(key, (rows, views)))(keys)
    return {name: u[i, :count].T for i, (name, count) in enumerate(counts.items())}
