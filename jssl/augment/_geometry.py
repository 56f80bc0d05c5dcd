"""Crops, resizing and flips."""

import functools
import math

import dm_pix as pix
import jax
import jax.numpy as jnp

from jssl.augment._band import block_size
from jssl.augment._boxes import Box, center_box, sample_box
from jssl.augment._pixels import check_dtype
from jssl.types import Array

# name: kernel, its `a`, half-pixel centres, treatment of weights outside the crop
RESIZES = {
    "bilinear": ("triangle", 0.0, True, "clamp"),
    "bicubic": ("cubic", -0.5, True, "renormalise"),
    "bicubic_torch": ("cubic", -0.75, True, "clamp"),
    "bicubic_tf1": ("cubic", -0.75, False, "clamp"),
    "lanczos": ("lanczos", 3.0, True, "renormalise"),
}


def _kernel(t: Array, kernel: str, a: float) -> Array:
    t = jnp.abs(t)
    if kernel == "triangle":
        return jnp.maximum(1 - t, 0.0)
    if kernel == "lanczos":  # sinc(t) sinc(t / a) for t < a
        return jnp.where(t < a, jnp.sinc(t) * jnp.sinc(t / a), 0.0)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return jnp.where(t < 1, near, jnp.where(t < 2, far, 0.0))


def _taps(
    start: Array,
    length: Array,
    flip: Array | bool,
    *,
    n: int,
    size: int,
    method: str,
    antialias: bool,
) -> tuple[Array, Array]:
    """Returns the taps that resize pixels [start, start + length) of n to `size`.

    Returns (index int32, weight) [size,taps]; output i is the sum over its taps of weight times
    the input at index.
    """
    kernel, a, half_pixel, outside = RESIZES[method]
    # the crop with the largest reach is the whole image
    reach = {"triangle": 1, "cubic": 2, "lanczos": 3}[kernel] * (
        max(n / size, 1.0) if antialias else 1.0
    )
    start, length = start.astype(jnp.float32), length.astype(jnp.float32)
    scale = length / size
    widen = jnp.maximum(scale, 1.0) if antialias else jnp.float32(1)
    i = jnp.arange(size, dtype=jnp.float32)
    i = jnp.where(flip, size - 1 - i, i)
    centre = (start + ((i + 0.5) * scale - 0.5 if half_pixel else i * scale))[:, None]
    tap = jnp.arange(1, math.ceil(2 * reach) + 1, dtype=jnp.float32)[None, :]
    place = jnp.floor(centre - reach) + tap
    weight = _kernel((place - centre) / widen, kernel, a)
    inside = jnp.clip(place, start, start + length - 1)
    if outside == "renormalise" or antialias:
        weight = jnp.where(place == inside, weight, 0.0)
        weight = weight / weight.sum(axis=1, keepdims=True)
    return inside.astype(jnp.int32), weight


def _sum_rows(x: Array, index: Array, weight: Array) -> Array:
    """[n,K] -> float32 [size,K] by gathering each tap's row: four fused passes on the CPU."""
    rows = (x.at[index[:, k]].get(mode="promise_in_bounds") for k in range(index.shape[1]))
    terms = [weight[:, k, None] * row.astype(jnp.float32) for k, row in enumerate(rows)]
    return sum(terms[1:], terms[0])


def _multiply_rows(x: Array, index: Array, weight: Array) -> Array:
    """[n,K] -> float32 [size,K] as products with the bands of the tap matrix."""
    bands = [
        jnp.dot(
            band,
            jax.lax.dynamic_slice_in_dim(x, low, band.shape[1], axis=0).astype(jnp.float32),
            precision="highest",
        )
        for low, band in _bands(index, weight, x.shape[0])
    ]
    return jnp.concatenate(bands, axis=0)


def _bands(index: Array, weight: Array, n: int) -> list[tuple[Array, Array]]:
    """Returns the nonzero blocks of rows of the tap matrix [size,n]: (low, [block,span]).

    A block is multiplied with the inputs low to low + span.
    """
    size, taps = index.shape
    block = block_size(size)
    span = min(n, math.ceil((block - 1) * n / size) + taps + 1)

    def band(first: int) -> tuple[Array, Array]:
        rows = slice(first, first + block)
        low = jnp.minimum(jnp.minimum(index[first, 0], index[first + block - 1, 0]), n - span)
        column = low + jnp.arange(span)[None, :]
        parts = [
            jnp.where(index[rows, k, None] == column, weight[rows, k, None], 0.0)
            for k in range(taps)
        ]
        return low, sum(parts[1:], parts[0])

    return [band(first) for first in range(0, size, block)]


def crop_resize(
    image: Array,
    box: Box,
    *,
    size: int,
    method: str = "bicubic",
    antialias: bool = False,
    flip: Array | bool = False,
) -> Array:
    """Crops a box and resizes it to `size` x `size`, optionally flipped.

    As in the official code, pixels outside the box are never read: at its edges the weights are
    renormalised or moved to the edge pixel, depending on the method. Bicubic methods may overshoot
    [0, 1]; nothing is clipped here.

    Args:
        image: uint8, or float in [0, 1], [H,W,C].
        box: from `sample_box`.
        size: of the result in pixels.
        method: 'bilinear'; 'bicubic', Keys' a = -0.5 with renormalised edges (`tf.image.resize`,
            and PIL with antialias); 'bicubic_torch', a = -0.75 with clamped edges
            (`torch.nn.functional.interpolate`); 'bicubic_tf1', a = -0.75 without half-pixel
            centres (`tf.compat.v1.image.resize_bicubic`, in SimCLR's TF 1 code); 'lanczos', of
            three lobes, PIL's with antialias.
        antialias: widens the kernel when downsampling, as PIL does; always renormalises.
        flip: bool [], flips left and right at no cost.

    Returns:
        float32 [size,size,C]; uint8 is divided by 255.

    Raises:
        ValueError: an image that is neither uint8 nor float.

    Example:
        >>> image = jnp.arange(16, dtype=jnp.uint8).reshape(4, 4, 1)
        >>> box = Box(*jnp.array([0, 0, 2, 2]))
        >>> print(crop_resize(image, box, size=2)[..., 0] * 255)
        [[0. 1.]
         [4. 5.]]

    Reference: Keys, IEEE Trans. ASSP 29(6), 1981. tf.image.resize looks the kernel up in a table
        of 1024 steps, so the two differ by at most 1e-3.
    """
    x = image.transpose(0, 2, 1)
    x = crop_resize_rows(x, box, size=size, method=method, antialias=antialias, flip=flip)
    return x.transpose(0, 2, 1)


def crop_resize_rows(
    image: Array, box: Box, *, size: int, method: str, antialias: bool, flip: Array | bool
) -> Array:
    """`crop_resize` of [H,C,W] to [size,C,size].

    In this layout both resizes are matrix products: rows of [H,CW], columns of [HC,W].
    """
    check_dtype(image)
    H, C, W = image.shape
    taps = functools.partial(_taps, size=size, method=method, antialias=antialias)
    x = image.reshape(H, C * W)
    index, weight = taps(box.top, box.height, False, n=H)
    # Rows are contiguous in memory, so the CPU gathers rows; accelerators multiply matrices.
    x = jax.lax.platform_dependent(x, index, weight, cpu=_sum_rows, default=_multiply_rows)
    x = x.reshape(size * C, W)
    index, weight = taps(box.left, box.width, flip, n=W)
    if image.dtype == jnp.uint8:
        weight = weight * (1 / 255)
    columns = [
        jnp.dot(
            jax.lax.dynamic_slice_in_dim(x, low, band.shape[1], axis=1),
            band.T,
            precision="highest",
        )
        for low, band in _bands(index, weight, W)
    ]
    return jnp.concatenate(columns, axis=1).reshape(size, C, size)


def resize(image: Array, *, size: int, method: str = "bicubic", antialias: bool = False) -> Array:
    """Resizes a whole uint8 or float image [H,W,C] to float32 [size,size,C], see `crop_resize`."""
    H, W, _ = image.shape
    whole = Box(*(jnp.int32(side) for side in (0, 0, H, W)))
    return crop_resize(image, whole, size=size, method=method, antialias=antialias)


def center_crop(
    image: Array,
    *,
    size: int,
    proportion: float = 0.875,
    method: str = "bicubic",
    antialias: bool = False,
) -> Array:
    """Resizes the central square of `proportion` of the shorter side, as in ImageNet evaluation.

    Args:
        image: uint8, or float in [0, 1], [H,W,C].
        size: of the result in pixels.
        proportion: 0.875 is 224 of 256.
        method, antialias: as in `crop_resize`.

    Returns:
        float32 [size,size,C], clipped to [0, 1].

    Example:
        >>> center_crop(jnp.zeros((300, 256, 3), jnp.uint8), size=224).shape
        (224, 224, 3)

    Reference: SimCLR's official code, data_util.py, center_crop.
    """
    box = center_box(image.shape[0], image.shape[1], proportion)
    out = crop_resize(image, box, size=size, method=method, antialias=antialias)
    return jnp.clip(out, 0.0, 1.0)


def random_resized_crop(
    key: Array,
    image: Array,
    *,
    size: int,
    sampler: str = "tf",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: str = "bicubic",
    antialias: bool = False,
) -> Array:
    """Crops a box from `sample_box`: uint8 or float [H,W,C] -> float32 [size,size,C]."""
    H, W, _ = image.shape
    box = sample_box(key, height=H, width=W, sampler=sampler, scale=scale, ratio=ratio)
    return crop_resize(image, box, size=size, method=method, antialias=antialias)


def shift_reflected(image: Array, u: Array, *, pad: int) -> Array:
    """Pads [H,C,W] by reflection and crops it to its size, at u [2] uniform in [0, 1)."""

    def indices(side: int, u: Array) -> Array:
        shift = jnp.minimum(jnp.floor(u * (2 * pad + 1)), 2 * pad).astype(jnp.int32) - pad
        index = jnp.abs(jnp.arange(side) + shift)  # reflected at the first, then the last pixel
        return jnp.where(index > side - 1, 2 * (side - 1) - index, index)

    rows, columns = indices(image.shape[0], u[0]), indices(image.shape[2], u[1])
    return jnp.take(jnp.take(image, rows, axis=0), columns, axis=2)


def random_flip(key: Array, image: Array, *, p: float = 0.5) -> Array:
    """Flips an image [H,W,C] left and right with probability p."""
    return pix.random_flip_left_right(key, image, probability=p)
