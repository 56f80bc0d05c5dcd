"""Padding of pictures and of rows: left out of batch statistics, and zero before each convolution.

A detector's pictures are padded to one size, and its regions to one number. With `padded` a network
computes what it computes without the padding, except for rounding.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax.numpy as jnp

from jssl.types import Array

# (shape of x [B,...,C]) -> bool, broadcastable to it: what is no padding
Mask = Callable[[tuple[int, ...]], Array]
_mask: contextvars.ContextVar[Mask | None] = contextvars.ContextVar("mask", default=None)


@contextlib.contextmanager
def padded(mask: Mask) -> Iterator[None]:
    """Traces networks on padded inputs: every `BatchNorm` leaves the padding out and sets it to 0.

    Args:
        mask: `inside` or `rows`.

    Example:
        >>> from jssl.models.norm import BatchNorm
        >>> x = jnp.array([[1.0], [3.0], [9.0]])
        >>> net = BatchNorm()
        >>> variables = {'params': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)},
        ...              'batch_stats': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}}
        >>> with padded(rows(jnp.array([True, True, False]))):
        ...     y, _ = net.apply(variables, x, True, mutable=['batch_stats'])
        >>> print(y[:, 0].round(3))
        [-1.  1.  0.]
    """
    token = _mask.set(mask)
    try:
        yield
    finally:
        _mask.reset(token)


def mask_of(x: Array) -> Array | None:
    """Returns what is no padding in x [B,...,C], bool, broadcastable to it; None: there is none."""
    mask = _mask.get()
    return None if mask is None else mask(x.shape)


def without_padding(x: Array) -> Array:
    """Sets the padding of x [B,...,C] to 0."""
    mask = mask_of(x)
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def rows(valid: Array) -> Mask:
    """A mask of whole examples.

    Args:
        valid: bool [B].
    """
    return lambda shape: valid.reshape(-1, *(1,) * (len(shape) - 1))


def inside(sizes: Array, canvas: tuple[int, int]) -> Mask:
    """A mask of pictures at the upper left of a canvas, and of the maps that a network makes of it.

    A map of stride s, a power of 2, has ceil(H / s) rows, and those of the picture are its first
    ceil(h / s).

    Args:
        sizes: int32 [B,2], height and width of each picture, in pixels.
        canvas: (H, W), in pixels.

    Raises:
        ValueError: a map of another size, when the mask is used.

    Example:
        >>> mask = inside(jnp.array([[3, 5]]), (4, 8))
        >>> print(mask((1, 2, 4, 64))[0, :, :, 0].astype(int))
        [[1 1 1 0]
         [1 1 1 0]]
    """

    def stride(whole: int, part: int) -> int:
        for s in (2**i for i in range(whole.bit_length() + 1)):
            if -(-whole // s) == part:
                return s
        raise ValueError(f"No power of 2 as stride leads from {whole} pixels to {part} cells.")

    def mask(shape: tuple[int, ...]) -> Array:
        y, x = (
            jnp.arange(part)[None] * stride(whole, part) < sizes[:, i, None]
            for i, (whole, part) in enumerate(zip(canvas, shape[1:3], strict=True))
        )
        return (y[:, :, None] & x[:, None, :])[..., None]

    return mask
