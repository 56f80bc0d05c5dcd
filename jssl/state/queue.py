"""MoCo's first-in first-out queue of keys: two leaves of the state."""

import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.numerics import unit_rows
from jssl.types import Array


def random_queue(key: Array, *, size: int, dim: int) -> tuple[Array, Array]:
    """Returns the initial queue: random directions, as there are no keys yet.

    Args:
        key: PRNG key.
        size: K, the number of entries.
        dim: D.

    Returns:
        queue: float32 [K,D], rows of length one, uniform on the sphere.
        pointer: int32 [], 0: the row of the next key.

    Example:
        >>> queue, pointer = random_queue(jax.random.key(0), size=4, dim=2)
        >>> bool(jnp.allclose(jnp.linalg.norm(queue, axis=1), 1.0)), int(pointer)
        (True, 0)

    Reference:
        Official code: https://github.com/facebookresearch/moco, moco/builder.py.
    """
    return unit_rows(jax.random.normal(key, (size, dim), jnp.float32)), jnp.int32(0)


def enqueue(queue: Array, pointer: Array, keys: Array) -> tuple[Array, Array]:
    """Replaces the oldest keys by a batch of keys.

    Under donation the rows are written in place, even with the guard of `jssl.parallel.nonfinite`:
    XLA moves the selection between the new and the old queue into the N rows.

    Args:
        queue: float [K,D].
        pointer: int32 [], the row of the oldest key; a multiple of N.
        keys: float [N,D], of the GLOBAL batch in its order, equal on every device, so that the
            queues stay equal.

    Returns:
        The queue with rows pointer ... pointer + N - 1 replaced, in its dtype, and the pointer
        advanced by N, modulo K.

    Raises:
        ValueError: other shapes; K is not divisible by N.

    Example:
        >>> queue, pointer = enqueue(jnp.zeros((4, 1)), jnp.int32(2), jnp.ones((2, 1)))
        >>> print(queue.ravel(), pointer)
        [0. 0. 1. 1.] 0

    Reference:
        MoCo, section 3.2, https://arxiv.org/abs/1911.05722, "Dictionary as a queue", and
        `_dequeue_and_enqueue` of the official code.
    """
    shapes = jnp.shape(queue), jnp.shape(keys)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"enqueue expects queue [K,D] and keys [N,D], found {shapes}.")
    K, N = shapes[0][0], shapes[1][0]
    if N == 0 or K % N:
        raise ValueError(f"enqueue expects K divisible by N, found queue and keys {shapes}.")
    new = jax.lax.dynamic_update_slice(queue, keys.astype(queue.dtype), (pointer, 0))
    return new, (pointer + N) % K


def check_queue_size(size: int, *, batch_size: int) -> None:
    """Raises UserError for a queue size that is not a multiple of the global batch size.

    Args:
        size: K.
        batch_size: N, global.

    Raises:
        UserError: names the nearest valid sizes.

    Example:
        >>> check_queue_size(65536, batch_size=256)
    """
    if size < 1 or size % batch_size:
        below = size // batch_size * batch_size
        near = [n for n in (below, below + batch_size) if n > 0]
        raise UserError(
            f"A queue of {size} keys does not hold a whole number of global batches of "
            f"{batch_size}: expected a multiple of {batch_size}. Type "
            f"{' or '.join(f'--config.moco.queue_size={n}' for n in near)}."
        )
