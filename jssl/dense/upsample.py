"""Bilinear upsampling of a map of logits to the pixels of a picture.

It is separable: a matrix for the rows and one for the columns, A_y F A_x^T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jssl.types import Array


def _apply(x: Array, y_weights: Array, x_weights: Array) -> Array:
    """[h,w,C] by [H,h] and [W,w] to [H,W,C], float32."""
    precision = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("yh,hwc->ywc", y_weights, x.astype(jnp.float32), precision=precision)
    return jnp.einsum("xw,ywc->yxc", x_weights, rows, precision=precision)


def resize_bilinear(
    x: Array,
    shape: tuple[int, int],
    *,
    extent: Array | None = None,
    size: Array | None = None,
) -> Array:
    """Interpolates a map to other numbers of rows and columns, whose corners are not aligned.

    Args:
        x: [h,w,C] float, of one picture.
        shape: (H, W) of the result.
        extent: int [2], rows and columns of `x` that are no padding; None: all.
        size: int [2], rows and columns of the result that are no padding; None: all.

    Returns:
        float32 [H,W,C]; what lies beyond `size` continues the last rows and columns.

    Example:
        >>> x = jnp.array([[0.0, 4.0]]).reshape(1, 2, 1)
        >>> print(resize_bilinear(x, (1, 4))[0, :, 0])
        [0. 1. 3. 4.]

    Reference: torch.nn.functional.interpolate(mode='bilinear', align_corners=False).
    """

    def weights(axis: int) -> Array:
        cells = x.shape[axis]
        own = jnp.float32(cells) if extent is None else extent[axis].astype(jnp.float32)
        pixels = jnp.float32(shape[axis]) if size is None else size[axis].astype(jnp.float32)
        place = (jnp.arange(shape[axis], dtype=jnp.float32) + 0.5) * (own / pixels) - 0.5
        place = jnp.clip(place, 0.0, own - 1)
        cell = jnp.arange(cells, dtype=jnp.float32)
        return jnp.maximum(1 - jnp.abs(place[:, None] - cell[None]), 0.0)

    return _apply(x, weights(0), weights(1))


def bilinear_kernel(side: int) -> np.ndarray:
    """Computes one axis of the kernel with which a transposed convolution interpolates.

    Args:
        side: of the kernel; the stride is (side + 1) // 2.

    Returns:
        float32 [side].

    Example:
        >>> print(bilinear_kernel(3), bilinear_kernel(4))
        [0.5 1.  0.5] [0.25 0.75 0.75 0.25]

    Reference: Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038, section 3.3;
        https://github.com/shelhamer/fcn.berkeleyvision.org, surgery.py.
    """
    factor = (side + 1) // 2
    centre = factor - 1 if side % 2 else factor - 0.5
    return (1 - np.abs(np.arange(side) - centre) / factor).astype(np.float32)


def deconvolve_bilinear(
    x: Array, shape: tuple[int, int], *, side: int, stride: int, offset: int
) -> Array:
    """Computes a transposed convolution with the bilinear kernel, and cuts the picture out of it.

    Args:
        x: [h,w,C] float, of one picture.
        shape: (H, W) of the result.
        side: of the kernel.
        stride: pixels between cells.
        offset: rows and columns that are cut off before the picture.

    Returns:
        float32 [H,W,C].

    Raises:
        ValueError: the map does not reach to the end of the picture.

    Example:
        >>> x = jnp.array([[1.0, 3.0]]).reshape(1, 2, 1)
        >>> print(deconvolve_bilinear(x, (1, 5), side=3, stride=2, offset=0)[0, :, 0])
        [0.25 0.5  1.   1.5  0.75]

    Reference: as `bilinear_kernel`.
    """
    kernel = bilinear_kernel(side)

    def weights(axis: int) -> Array:
        cells, pixels = x.shape[axis], shape[axis]
        whole = stride * (cells - 1) + side
        if whole < offset + pixels:
            raise ValueError(
                f"deconvolve_bilinear makes {whole} pixels of {cells} cells, expected at least "
                f"{offset + pixels}, with the offset."
            )
        result = np.zeros((whole, cells), np.float32)
        for i in range(cells):
            result[i * stride : i * stride + side, i] = kernel
        return jnp.asarray(result[offset : offset + pixels])

    return _apply(x, weights(0), weights(1))
