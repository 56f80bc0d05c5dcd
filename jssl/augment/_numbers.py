"""The random numbers of an augmentation: each operation has its own."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl.types import Array


def uniform_numbers(key: Array, counts: Mapping[str, int], views: int) -> dict[str, Array]:
    """Draws the random numbers of each operation from a key that is the operation's own.

    The place of an operation in `counts` is folded into the key. So neither an operation that is
    added at the end nor one that draws more numbers changes the numbers of the others.

    Args:
        key: typed PRNG key [], of one image.
        counts: how many numbers each operation takes for a view.
        views: V.

    Returns:
        float32 [V,count] in [0, 1) for each operation.

    Example:
        >>> draws = uniform_numbers(jax.random.key(0), {'flip': 1, 'jitter': 9}, views=2)
        >>> draws['jitter'].shape
        (2, 9)
    """
    # One call for all: each further one costs half a second of compilation. The numbers of one
    # operation are the first of its rows, whatever the number of rows is.
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(len(counts)))
    rows = max(counts.values())
    u = jax.vmap(lambda key: jax.random.uniform(key, (rows, views)))(keys)
    return {name: u[place, :count].T for place, (name, count) in enumerate(counts.items())}
