"""Boxes, crops and resizing."""

import math
from typing import NamedTuple

import dm_pix as pix
import jax
import jax.numpy as jnp

from jssl.augment._band import block_size
from jssl.types import Array

SAMPLERS = ("tf", "torchvision", "byol")
# name: kernel, its `a`, half-pixel centres, what happens to weights that fall outside the crop
RESIZES = {
    "bilinear": ("triangle", 0.0, True, "clamp"),
    "bicubic": ("cubic", -0.5, True, "renormalise"),
    "bicubic_torch": ("cubic", -0.75, True, "clamp"),
    "bicubic_tf1": ("cubic", -0.75, False, "clamp"),
}


class Box(NamedTuple):
    """A rectangle in whole pixels: int32 [] each."""

    top: Array
    left: Array
    height: Array
    width: Array


def sample_box(
    key: Array,
    *,
    height: int,
    width: int,
    sampler: str = "tf",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draws the box of a random resized crop, in whole pixels as the official samplers do.

    All attempts are drawn at once and the first good one is taken.

    * 'tf', `sample_distorted_bounding_box` as SimCLR calls it: the aspect is uniform; between the
      limits of the area the HEIGHT is uniform, not the area; a box must cover a tenth of the
      image (`min_object_covered`), so that scale .08 means .1; the last offset of each axis is
      never drawn; after 100 attempts the whole image.
    * 'torchvision', `RandomResizedCrop`: the area is uniform and the aspect log-uniform; after 10
      attempts the largest central box whose aspect is within the limits.
    * 'byol': as torchvision, but one attempt, cut to the image.

    Args:
        key: typed PRNG key [].
        height, width: of the image in pixels.
        sampler: 'tf', 'torchvision' or 'byol'.
        scale: smallest and largest share of the image's area, within (0, 1].
        ratio: smallest and largest width / height.

    Returns:
        Box, within the image.

    Example:
        >>> box = sample_box(jax.random.key(0), height=32, width=32, scale=(1.0, 1.0),
        ...                  ratio=(1.0, 1.0))
        >>> [int(side) for side in box]
        [0, 0, 32, 32]

    Reference: tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc;
        torchvision.transforms.RandomResizedCrop.get_params; BYOL's official code
        https://github.com/google-deepmind/deepmind-research, byol/utils/dataset.py.
    """
    draw = {"tf": _tf_box, "torchvision": _torchvision_box, "byol": _byol_box}[sampler]
    return draw(key, height, width, scale, ratio)


def _below(u: Array, n: Array) -> Array:
    """Uniform whole number in [0, n) from u uniform in [0, 1): float32, exact below 2^23."""
    return jnp.floor(u * n)


def _first(good: Array, boxes: tuple[Array, ...], fallback: tuple[int, ...]) -> Box:
    i = jnp.argmax(good)
    picked = (jnp.where(good[i], b[i], float(f)) for b, f in zip(boxes, fallback, strict=True))
    return Box(*(side.astype(jnp.int32) for side in picked))


def _tf_box(key: Array, H: int, W: int, scale, ratio) -> Box:
    u_ratio, u_height, u_top, u_left = jax.random.uniform(key, (4, 100))
    aspect = ratio[0] + u_ratio * (ratio[1] - ratio[0])
    least, most = scale[0] * H * W, scale[1] * H * W
    lowest = jnp.rint(jnp.sqrt(least / aspect))
    highest = jnp.rint(jnp.sqrt(most / aspect))
    # the largest height whose rounded width fits
    fitting = jnp.floor((W + 0.5 - 1e-7) / aspect)
    fitting = fitting - (jnp.rint(fitting * aspect) > W)
    highest = jnp.where(jnp.rint(highest * aspect) > W, fitting, highest)
    highest = jnp.minimum(highest, H)
    lowest = jnp.minimum(lowest, highest)
    height = lowest + _below(u_height, highest - lowest + 1)
    # rounding may have left the limits of the area by one row
    height = height + (height * jnp.rint(height * aspect) < least)
    height = height - (height * jnp.rint(height * aspect) > most)
    width = jnp.rint(height * aspect)
    area = height * width
    good = (area >= least) & (area <= most) & (width <= W) & (height <= H) & (width > 0)
    good = good & (area >= 0.1 * H * W)
    top, left = _below(u_top, H - height), _below(u_left, W - width)
    return _first(good, (top, left, height, width), (0, 0, H, W))


def _log_uniform_sides(u_area: Array, u_ratio: Array, H: int, W: int, scale, ratio):
    area = (scale[0] + u_area * (scale[1] - scale[0])) * (H * W)
    log_ratio = jnp.log(jnp.array(ratio, jnp.float32))
    aspect = jnp.exp(log_ratio[0] + u_ratio * (log_ratio[1] - log_ratio[0]))
    return jnp.rint(jnp.sqrt(area / aspect)), jnp.rint(jnp.sqrt(area * aspect))


def _torchvision_box(key: Array, H: int, W: int, scale, ratio) -> Box:
    u_area, u_ratio, u_top, u_left = jax.random.uniform(key, (4, 10))
    height, width = _log_uniform_sides(u_area, u_ratio, H, W, scale, ratio)
    good = (height > 0) & (height <= H) & (width > 0) & (width <= W)
    top, left = _below(u_top, H - height + 1), _below(u_left, W - width + 1)
    h, w = H, W
    if W / H < ratio[0]:
        h = round(W / ratio[0])
    elif W / H > ratio[1]:
        w = round(H * ratio[1])
    return _first(good, (top, left, height, width), ((H - h) // 2, (W - w) // 2, h, w))


def _byol_box(key: Array, H: int, W: int, scale, ratio) -> Box:
    u_area, u_ratio, u_top, u_left = jax.random.uniform(key, (4,))
    height, width = _log_uniform_sides(u_area, u_ratio, H, W, scale, ratio)
    # at least one pixel: the official code would fail on a picture of a few pixels
    height, width = jnp.clip(height, 1, H), jnp.clip(width, 1, W)
    box = _below(u_top, H - height + 1), _below(u_left, W - width + 1), height, width
    return Box(*(side.astype(jnp.int32) for side in box))


def _kernel(t: Array, kernel: str, a: float) -> Array:
    t = jnp.abs(t)
    if kernel == "triangle":
        return jnp.maximum(1 - t, 0.0)
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
    """How pixels [start, start + length) of n become `size`: (index int32, weight) [size,taps].

    Output i is the sum over its taps of weight times the input at index, the inputs near its
    centre c_i.
    """
    kernel, a, half_pixel, outside = RESIZES[method]
    # the largest reach of any crop is that of the whole image
    reach = (1 if kernel == "triangle" else 2) * (max(n / size, 1.0) if antialias else 1.0)
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
    """[n,K] -> float32 [size,K] by fetching each tap's row: four fused passes on the CPU."""
    rows = (x.at[index[:, k]].get(mode="promise_in_bounds") for k in range(index.shape[1]))
    return sum(weight[:, k, None] * row.astype(jnp.float32) for k, row in enumerate(rows))


def _multiply_rows(x: Array, index: Array, weight: Array) -> Array:
    """[n,K] -> float32 [size,K] as products with the bands of the matrix of the taps."""
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
    """The matrix [size,n] of the taps without its zeros: blocks of rows (low, [block,span]).

    A block is to be multiplied with the inputs low to low + span, all that it can see.
    """
    size, taps = index.shape
    block = block_size(size)
    span = min(n, math.ceil((block - 1) * n / size) + taps + 1)

    def band(first: int) -> tuple[Array, Array]:
        rows = slice(first, first + block)
        low = jnp.minimum(jnp.minimum(index[first, 0], index[first + block - 1, 0]), n - span)
        column = low + jnp.arange(span)[None, :]
        parts = (
            jnp.where(index[rows, k, None] == column, weight[rows, k, None], 0.0)
            for k in range(taps)
        )
        return low, sum(parts)

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
    """Cuts a box out and resizes it to `size` x `size`, mirrored when `flip`.

    As in the official code pixels outside the box are never read: at the edges of the box the
    weights are renormalised or given to the edge pixel, whichever the method does. Bicubic methods
    may overshoot [0, 1]; nothing is clipped here.

    Args:
        image: uint8, or float in [0, 1], [H,W,C].
        box: from `sample_box`.
        size: of the result in pixels.
        method: 'bilinear'; 'bicubic', Keys' a = -0.5 with renormalised edges (`tf.image.resize`,
            and PIL with antialias); 'bicubic_torch', a = -0.75 with clamped edges
            (`torch.nn.functional.interpolate`); 'bicubic_tf1', a = -0.75 without half-pixel
            centres (`tf.compat.v1.image.resize_bicubic`, in SimCLR's TF 1 code).
        antialias: widen the kernel where the box shrinks, as PIL does; always renormalises.
        flip: bool [], mirrors left and right at no cost.

    Returns:
        float32 [size,size,C], uint8 having been divided by 255.

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

    Both axes of the picture are then an axis of a matrix: its rows in [H,CW], its columns in
    [HC,W].
    """
    H, C, W = image.shape
    how = {"size": size, "method": method, "antialias": antialias}
    x = image.reshape(H, C * W)
    index, weight = _taps(box.top, box.height, False, n=H, **how)
    # A row lies together in memory, so the CPU fetches rows; a matrix unit multiplies.
    x = jax.lax.platform_dependent(x, index, weight, cpu=_sum_rows, default=_multiply_rows)
    x = x.reshape(size * C, W)
    index, weight = _taps(box.left, box.width, flip, n=W, **how)
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
    """`crop_resize` of the whole uint8 or float image [H,W,C] to float32 [size,size,C]."""
    H, W, _ = image.shape
    whole = Box(*(jnp.int32(side) for side in (0, 0, H, W)))
    return crop_resize(image, whole, size=size, method=method, antialias=antialias)


def center_box(height: int, width: int, proportion: float) -> Box:
    """The central square of `proportion` of the shorter side."""
    side = round(proportion * min(height, width))
    corner = (height - side + 1) // 2, (width - side + 1) // 2
    return Box(*(jnp.int32(v) for v in (*corner, side, side)))


def center_crop(
    image: Array,
    *,
    size: int,
    proportion: float = 0.875,
    method: str = "bicubic",
    antialias: bool = False,
) -> Array:
    """The central square of `proportion` of the shorter side, resized: how ImageNet is evaluated.

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
    """`crop_resize` of a box from `sample_box`: uint8 or float [H,W,C] -> float32 [size,size,C]."""
    H, W, _ = image.shape
    box = sample_box(key, height=H, width=W, sampler=sampler, scale=scale, ratio=ratio)
    return crop_resize(image, box, size=size, method=method, antialias=antialias)


def random_flip(key: Array, image: Array, *, p: float = 0.5) -> Array:
    """Mirrors an image [H,W,C] left and right with chance p."""
    return pix.random_flip_left_right(key, image, probability=p)
