"""Boxes in whole pixels: of random crops, as in the official samplers, and of masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.types import Array

SAMPLERS = {"tf": 100, "torchvision": 10, "byol": 1}  # name: attempts


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

    All attempts are drawn at once and the first valid one is taken.

    * 'tf', `sample_distorted_bounding_box` as used by SimCLR: the aspect is uniform; between the
      limits of the area the HEIGHT is uniform, not the area; a box must cover a tenth of the
      image (`min_object_covered`), so that scale .08 means .1; the last offset of each axis is
      never drawn; after 100 attempts the whole image.
    * 'torchvision', `RandomResizedCrop`: the area is uniform and the aspect log-uniform; after 10
      attempts the largest central box whose aspect is within the limits.
    * 'byol': as torchvision, but one attempt, clipped to the image.

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
    u = jax.random.uniform(key, (4, SAMPLERS[sampler]))
    return box_from(u, height=height, width=width, sampler=sampler, scale=scale, ratio=ratio)


def box_from(
    u: Array,
    *,
    height: int,
    width: int,
    sampler: str,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """`sample_box` from numbers [4, attempts] uniform in [0, 1)."""
    box = {"tf": _tf_box, "torchvision": _torchvision_box, "byol": _byol_box}[sampler]
    return box(u, height, width, scale, ratio)


def _below(u: Array, n: Array) -> Array:
    """Maps u uniform in [0, 1) to a uniform integer in [0, n): float32, exact below 2^23."""
    return jnp.floor(u * n)


def _first(good: Array, boxes: tuple[Array, ...], fallback: tuple[int, ...]) -> Box:
    i = jnp.argmax(good)
    picked = (jnp.where(good[i], b[i], float(f)) for b, f in zip(boxes, fallback, strict=True))
    return Box(*(side.astype(jnp.int32) for side in picked))


def _tf_box(u: Array, H: int, W: int, scale, ratio) -> Box:
    u_ratio, u_height, u_top, u_left = u
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


def _torchvision_box(u: Array, H: int, W: int, scale, ratio) -> Box:
    u_area, u_ratio, u_top, u_left = u
    height, width = _log_uniform_sides(u_area, u_ratio, H, W, scale, ratio)
    good = (height > 0) & (height <= H) & (width > 0) & (width <= W)
    top, left = _below(u_top, H - height + 1), _below(u_left, W - width + 1)
    h, w = H, W
    if W / H < ratio[0]:
        h = round(W / ratio[0])
    elif W / H > ratio[1]:
        w = round(H * ratio[1])
    return _first(good, (top, left, height, width), ((H - h) // 2, (W - w) // 2, h, w))


def _byol_box(u: Array, H: int, W: int, scale, ratio) -> Box:
    u_area, u_ratio, u_top, u_left = u[:, 0]
    height, width = _log_uniform_sides(u_area, u_ratio, H, W, scale, ratio)
    # at least one pixel: the official code would fail on very small pictures
    height, width = jnp.clip(height, 1, H), jnp.clip(width, 1, W)
    box = _below(u_top, H - height + 1), _below(u_left, W - width + 1), height, width
    return Box(*(side.astype(jnp.int32) for side in box))


def center_box(height: int, width: int, proportion: float) -> Box:
    """Returns the central square of `proportion` of the shorter side."""
    side = round(proportion * min(height, width))
    corner = (height - side + 1) // 2, (width - side + 1) // 2
    return Box(*(jnp.int32(v) for v in (*corner, side, side)))


def inside(top: Array, left: Array, high: Array, wide: Array, *, grid: tuple[int, int]) -> Array:
    """Returns the mask of a rectangle on a grid: bool [H,W].

    Example:
        >>> print(inside(0, 1, 1, 2, grid=(2, 4)).astype(int))
        [[0 1 1 0]
         [0 0 0 0]]
    """
    rows, columns = jnp.arange(grid[0])[:, None], jnp.arange(grid[1])[None, :]
    in_rows = (rows >= top) & (rows < top + high)
    return in_rows & (columns >= left) & (columns < left + wide)
