"""Overlapping patches of an image, each augmented independently (CPC v2).

From the paper, https://arxiv.org/abs/1905.09272, section 4.2 and appendix, this file IMPLEMENTS

    colour dropping   two of the three channels, drawn at random, become 0
    two operations    drawn from 10 of AutoAugment's 16: brightness, contrast, colour, invert,
                      posterize, solarize, autocontrast; shear x and y, rotate, translate
    elastic, shear    a smooth random field of displacement and a shear, together, probability .2
    colour jitter     instead of Szegedy's colour augmentation, probability .8
    grayscale         probability .25

and OMITS the histogram augmentation of De Fauw et al., which the paper does not define, and
AutoAugment's sharpness, equalize, cutout and sample pairing. All geometry of a patch is one
bilinear resampling with edge padding.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jssl.augment import _color
from jssl.augment._numbers import uniform_numbers
from jssl.errors import UserError
from jssl.types import Array

OPTIONS: dict[str, Any] = {
    "drop_p": 1.0,
    "operations": 2,  # number of AutoAugment's operations
    "warp_p": 0.2,  # elastic deformation and shear
    "jitter_p": 0.8,
    "jitter": (0.4, 0.4, 0.4, 0.1),  # brightness, contrast, saturation, hue
    "gray_p": 0.25,
}
_OPERATIONS = 10
_GEOMETRIC = 4  # the last four


def patch_grid(image: int, patch: int, stride: int) -> int:
    """Returns the number of patches along a side of an image.

    Args:
        image, patch, stride: in pixels.

    Returns:
        (image - patch) / stride + 1.

    Raises:
        UserError: the patches do not cover the image, or there is none.

    Example:
        >>> patch_grid(260, 80, 36), patch_grid(256, 64, 32), patch_grid(32, 8, 4)
        (6, 7, 7)
    """
    if patch < 1 or stride < 1 or image < patch or (image - patch) % stride:
        fitting = [image - (image - patch) % stride] if 0 < stride and 0 < patch <= image else []
        hint = f" Type --config.augment.size={fitting[0]}." if fitting else ""
        raise UserError(
            f"Patches of {patch} px every {stride} px do not fit an image of {image} px: expected "
            f"(image - patch) / stride to be whole, found ({image} - {patch}) / {stride}.{hint}"
        )
    return (image - patch) // stride + 1


def extract_patches(images: Array, *, patch: int, stride: int) -> Array:
    """Cuts images into a grid of overlapping patches.

    Args:
        images: [B,H,W,C].
        patch, stride: in pixels.

    Returns:
        [B,h,w,patch,patch,C]; [b,r,c] starts at pixel (r stride, c stride) of image b.

    Raises:
        UserError: they do not fit.

    Example:
        >>> x = jnp.arange(16).reshape(1, 4, 4, 1)
        >>> print(extract_patches(x, patch=2, stride=1)[0, 1, 2, :, :, 0])
        [[ 6  7]
         [10 11]]
    """
    H, W = images.shape[1:3]
    offset = jnp.arange(patch)
    rows = jnp.arange(patch_grid(H, patch, stride))[:, None] * stride + offset[None, :]  # [h,p]
    columns = jnp.arange(patch_grid(W, patch, stride))[:, None] * stride + offset[None, :]
    return images[:, rows[:, None, :, None], columns[None, :, None, :]]


def augment_patch(key: Array, patch: Array, **options: Any) -> Array:
    """Augments one patch by the operations listed at the top of this file.

    Args:
        key: typed PRNG key [].
        patch: float [p,p,3] in [0, 1].
        **options: any of `OPTIONS`.

    Returns:
        float32 [p,p,3] in [0, 1].

    Raises:
        ValueError: an unknown option, or not three channels.

    Example:
        >>> x = augment_patch(jax.random.key(0), jnp.ones((8, 8, 3)))
        >>> x.shape, int((x == 0).all(axis=(0, 1)).sum()) >= 2
        ((8, 8, 3), True)

    Reference: https://arxiv.org/abs/1905.09272; AutoAugment https://arxiv.org/abs/1805.09501.
    """
    unknown = set(options) - set(OPTIONS)
    if unknown or patch.ndim != 3 or patch.shape[-1] != 3:
        raise ValueError(
            f"augment_patch takes [p,p,3] and {sorted(OPTIONS)}; found {list(patch.shape)} and "
            f"{sorted(unknown)}."
        )
    o = {**OPTIONS, **options}
    count = o["operations"]
    counts = {  # append new operations, so that the others keep their numbers
        "operations": 2 * count,
        "warp": 2 + 18,
        "jitter": _color.JITTER_NUMBERS,
        "gray": 1,
        "drop": 2,
    }
    u = {name: numbers[0] for name, numbers in uniform_numbers(key, counts, views=1).items()}
    operations = u["operations"].reshape(count, 2)
    chosen = jnp.floor(operations[:, 0] * _OPERATIONS).astype(jnp.int32)
    amounts = 2 * operations[:, 1] - 1
    field = 2 * u["warp"][2:].reshape(3, 3, 2) - 1
    x = patch.astype(jnp.float32)
    # Every step must use x, not `patch`, or it would undo the steps before.
    warped = u["warp"][0] < o["warp_p"]
    if count or o["warp_p"]:
        x = _resample(
            x, chosen, amounts, jnp.where(warped, u["warp"][1] - 0.5, 0.0), warped * field
        )
    for i in range(count):
        x = jax.lax.switch(jnp.minimum(chosen[i], 7), _pointwise(amounts[i]), x)
    jitter = _color.jitter_from(
        u["jitter"], p=o["jitter_p"], amplitudes=o["jitter"], brightness="multiplicative"
    )
    planes = (x[..., 0], x[..., 1], x[..., 2])
    if o["jitter_p"]:
        planes = _color.jitter_planes(
            planes, jitter, semantics="torchvision", brightness="multiplicative"
        )
    gray = _color.gray_planes(planes, "torchvision")
    x = jnp.where(u["gray"][0] < o["gray_p"], jnp.stack(gray, axis=-1), jnp.stack(planes, axis=-1))
    kept = jnp.arange(3) == jnp.floor(u["drop"][1] * 3).astype(jnp.int32)
    dropped = (u["drop"][0] < o["drop_p"]) & ~kept
    return jnp.clip(jnp.where(dropped[None, None, :], 0.0, x), 0.0, 1.0)


def _pointwise(amount: Array) -> list[Any]:
    """Returns the operations 0-6 for an amount in [-1, 1], and the identity for geometric ones."""
    factor = 1 + 0.9 * amount
    bits = jnp.exp2(jnp.round(6 + 2 * amount))  # 4 to 8 bits

    def autocontrast(x: Array) -> Array:
        low, high = (f(x, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
        return jnp.where(high > low, (x - low) / jnp.where(high > low, high - low, 1.0), x)

    clipped = lambda f: lambda x: jnp.clip(f(x), 0.0, 1.0)  # noqa: E731
    return [
        clipped(lambda x: _color.adjust_brightness(x, factor)),
        clipped(lambda x: _color.adjust_contrast(x, factor, semantics="torchvision")),
        clipped(lambda x: _color.adjust_saturation(x, factor, semantics="torchvision")),
        lambda x: 1 - x,
        lambda x: jnp.minimum(jnp.floor(x * bits) / (bits - 1), 1.0),
        lambda x: jnp.where(x >= 0.5 + 0.5 * amount, 1 - x, x),
        autocontrast,
        lambda x: x,
    ]


def _resample(x: Array, chosen: Array, amounts: Array, shear: Array, field: Array) -> Array:
    """Applies all geometry at once: the drawn shears, rotation, translation and elastic field."""
    p = x.shape[0]
    places = jnp.arange(p, dtype=jnp.float32) - (p - 1) / 2
    v, h = (jnp.broadcast_to(a, (p, p)) for a in (places[:, None], places[None, :]))
    h = h + shear * v
    for i in range(len(chosen)):
        which, amount = chosen[i] - (_OPERATIONS - _GEOMETRIC + 1), amounts[i]
        angle = jnp.where(which == 2, amount * math.pi / 6, 0.0)
        h = h + jnp.where(which == 0, 0.3 * amount, 0.0) * v
        v = v + jnp.where(which == 1, 0.3 * amount, 0.0) * h
        v, h = jnp.cos(angle) * v - jnp.sin(angle) * h, jnp.sin(angle) * v + jnp.cos(angle) * h
    # 3 x 3 displacements of at most a tenth of the patch, interpolated linearly
    smooth = jax.image.resize(field, (p, p, 2), "linear") * (0.1 * p)
    v, h = v + smooth[..., 0] + (p - 1) / 2, h + smooth[..., 1] + (p - 1) / 2
    v, h = jnp.clip(v, 0, p - 1), jnp.clip(h, 0, p - 1)
    top, left = jnp.floor(v), jnp.floor(h)
    dv, dh = (v - top)[..., None], (h - left)[..., None]
    r, c = top.astype(jnp.int32), left.astype(jnp.int32)
    r1, c1 = jnp.minimum(r + 1, p - 1), jnp.minimum(c + 1, p - 1)
    above = x[r, c] * (1 - dh) + x[r, c1] * dh
    below = x[r1, c] * (1 - dh) + x[r1, c1] * dh
    return above * (1 - dv) + below * dv


def augment_patches(key: Array, patches: Array, first: Array, **options: Any) -> Array:
    """Applies `augment_patch` to each patch of each image independently.

    Args:
        key: typed PRNG key [], of this step.
        patches: float [B,h,w,p,p,3] in [0, 1].
        first: int32 [], index in the global batch of the first image.
        **options: any of `OPTIONS`.

    Returns:
        float32 [B,h,w,p,p,3].

    Raises:
        ValueError: as `augment_patch`.

    Example:
        >>> x = jnp.ones((2, 3, 3, 4, 4, 3))
        >>> augment_patches(jax.random.key(0), x, jnp.int32(0)).shape
        (2, 3, 3, 4, 4, 3)
    """
    B, h, w = patches.shape[:3]
    cells = patches.reshape(B, h * w, *patches.shape[3:])

    def one_image(index: Array, cells: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, index), h * w)
        return jax.vmap(lambda k, x: augment_patch(k, x, **options))(keys, cells)

    indices = jnp.asarray(first, jnp.uint32) + jnp.arange(B, dtype=jnp.uint32)
    return jax.vmap(one_image)(indices, cells).reshape(patches.shape)
