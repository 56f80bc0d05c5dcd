"""The operations of RandAugment and AutoAugment on 8-bit levels, in two forms.

    tf    official code: grey and smoothed levels truncated, nearest-pixel sampling
    pil   Pillow, as called by timm: these levels rounded, bicubic sampling of 4x4 pixels

A switch over 16 operations would be cheap on a CPU, which computes only the one that was drawn, but
expensive under vmap on an accelerator, which computes all and selects. So there are five families,
and a sixth that does nothing:

    pointwise   eight operations, as a table of 256 levels a channel: only the table is switched
    affine      five operations, as one 2x3 matrix
    color, sharpness, cutout

On one CPU core at 224 px (tests/benchmarks/bench_policy.py, one run): crop and flip take 0.70 ms an
image, with two operations 0.98; under vmap two operations take 7.2 ms this way and 12.0 ms as a
switch over 16, and 1.4 s against 5.8 s to compile. In Pillow's form, with its slower bicubic, a
switch over 16 took 2.6 times as long under vmap, and 4.5 times as long to compile (one run of 32
images, on a core that other work shared).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.types import Array

_POINTWISE = ("autocontrast", "equalize", "invert", "posterize", "solarize", "contrast",
              "brightness", "solarize_add")  # fmt: skip
_AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_SINGLE = ("color", "sharpness", "cutout")
OPERATIONS = (*_POINTWISE, *_AFFINE, *_SINGLE)
NOTHING = len(OPERATIONS)  # index of the identity
CONTRASTS = ("histogram", "mean")
_ROTATE, _SHEAR_X, _SHEAR_Y, _TRANSLATE_X, _TRANSLATE_Y = range(5)
_GRAY_TF = (0.2989, 0.5870, 0.1140)
_GRAY_PIL = (19595, 38470, 7471)  # times 2^-16
_EXACT = 1e-3  # of a level: tolerance for rounding errors before truncation


class Style(NamedTuple):
    """Static settings of the operations.

    Attributes:
        pil: the form of Pillow.
        contrast: 'mean' | 'histogram', see `jssl.augment.rand_augment`.
        fill: levels of pixels from outside the picture.
        pad: half the side of a cutout, in pixels.
    """

    pil: bool = False
    contrast: str = "mean"
    fill: tuple[int, ...] = (128, 128, 128)
    pad: int = 0


class Arguments(NamedTuple):
    """Strengths of the operations, as numbers or scalar arrays.

    Attributes:
        bits: that posterize keeps.
        threshold: of solarize.
        addition: of solarize_add, to the levels below 128.
        factor: of contrast, brightness, color, sharpness.
        cos, sin: of the angle of a rotation.
        shear: columns a row, or rows a column.
        shift_x, shift_y: pixels.
    """

    bits: Array | int
    threshold: Array | int
    addition: Array | int
    factor: Array | float
    cos: Array | float
    sin: Array | float
    shear: Array | float
    shift_x: Array | float
    shift_y: Array | float

    def with_sign(self, sign: Array | float) -> "Arguments":
        """Multiplies the directions by sign."""
        signed = {
            name: getattr(self, name) * sign for name in ("sin", "shear", "shift_x", "shift_y")
        }
        return self._replace(**signed)


def operation(levels: Array, kind: Array, a: Arguments, place: Array, style: Style) -> Array:
    """Applies one operation.

    Args:
        levels: int32 [3,H,W] in 0..255.
        kind: int32 [], index in `OPERATIONS`, or `NOTHING`.
        a: its strength.
        place: float32 [2] uniform in [0, 1), row and column of a cutout.
        style: the form.

    Returns:
        int32 [3,H,W] in 0..255.
    """
    branches = [
        lambda x: _pointwise(x, jnp.minimum(kind, len(_POINTWISE) - 1), a, style),
        lambda x: _affine(x, jnp.clip(kind - len(_POINTWISE), 0, len(_AFFINE) - 1), a, style),
        lambda x: _blend(jnp.broadcast_to(_gray(x, style), x.shape), x, a, style),
        lambda x: _blend(_smooth(x, style), x, a, style),
        lambda x: cut_square(x, place, pad=style.pad, fill=style.fill),
        lambda x: x,
    ]
    families = [0] * len(_POINTWISE) + [1] * len(_AFFINE) + [2, 3, 4, 5]
    return jax.lax.switch(jnp.array(families)[kind], branches, levels)


def cut_square(x: Array, u: Array, *, pad: int, fill: tuple[float, ...]) -> Array:
    """Fills a square of side 2 pad in [3,H,W], centred at u [2] uniform; clipped to the picture."""
    H, W = x.shape[1:]
    row, column = jnp.floor(u[0] * H), jnp.floor(u[1] * W)
    rows, columns = jnp.arange(H)[:, None], jnp.arange(W)[None, :]
    inside = (rows >= row - pad) & (rows < row + pad)
    inside &= (columns >= column - pad) & (columns < column + pad)
    return jnp.where(inside[None], jnp.asarray(fill, x.dtype)[:, None, None], x)


def _blend(degenerate: Array, levels: Array, a: Arguments, style: Style) -> Array:
    """Blends the degenerate picture (factor 0) and the picture (1); truncates to whole levels."""
    low = degenerate.astype(jnp.float32)
    mixed = low + exact_product(a.factor, levels.astype(jnp.float32) - low)
    return jnp.clip(mixed, 0.0, 255.0).astype(jnp.int32)


def exact_product(factor: Array | float, difference: Array) -> Array:
    """Computes factor * difference, rounded to float32 before a following addition.

    Compilers fuse a product and a sum into one operation that rounds once. Pillow and TensorFlow
    round twice, and truncate the level afterwards. Each half of the factor has 12 bits, so its
    product with a difference of levels is exact, fused or not.

    Args:
        factor: float32 [].
        difference: float32 [...], whole numbers from -255 to 255.

    Returns:
        float32 [...].
    """
    factor = jnp.asarray(factor, jnp.float32)
    bits = jax.lax.bitcast_convert_type(factor, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high * difference + (factor - high) * difference


def _gray(levels: Array, style: Style) -> Array:
    """Returns gray int32 [1,H,W]: rounded as in Pillow, or truncated as in TensorFlow."""
    if style.pil:
        products = [w * c for w, c in zip(_GRAY_PIL, levels, strict=True)]
        return ((sum(products[1:], products[0]) + 2**15) >> 16)[None]
    terms = [w * c.astype(jnp.float32) for w, c in zip(_GRAY_TF, levels, strict=True)]
    total = sum(terms[1:], terms[0])
    return (total * (255.5 / 255)).astype(jnp.int32)[None]


def _smooth(levels: Array, style: Style) -> Array:
    """Averages 3x3 pixels with weight five for the centre; the edge is unchanged."""
    H, W = levels.shape[1:]
    around = [levels[:, i : i + H - 2, j : j + W - 2] for i in range(3) for j in range(3)]
    total = sum(around) + 4 * around[4]
    inner = (2 * total + 13) // 26 if style.pil else total // 13
    return levels.at[:, 1:-1, 1:-1].set(inner) if min(H, W) > 2 else levels


def _pointwise(levels: Array, kind: Array, a: Arguments, style: Style) -> Array:
    """Maps every level by the table [3,256] of an operation."""
    v = jnp.broadcast_to(jnp.arange(256)[None, :], (3, 256))
    # With 0 bits Pillow gives black; TensorFlow shifts by at most 7.
    shift = jnp.clip(8 - a.bits, 0, 8 if style.pil else 7)
    makers = [
        lambda: _autocontrast(levels, v),
        lambda: _equalize(levels, v),
        lambda: 255 - v,
        lambda: (v >> shift) << shift,
        lambda: jnp.where(v < a.threshold, v, 255 - v),
        lambda: _blend(_middle(levels, style), v, a, style),
        lambda: _blend(jnp.zeros_like(v), v, a, style),
        lambda: jnp.where(v < 128, jnp.minimum(v + a.addition, 255), v),
    ]
    table = jax.lax.switch(kind, makers)
    flat = levels.reshape(3, -1)
    return jnp.take_along_axis(table, flat, axis=1, mode="clip").reshape(levels.shape)


def _middle(levels: Array, style: Style) -> Array:
    """Returns the level [1,1] that is the fixed point of contrast."""
    pixels = levels.shape[1] * levels.shape[2]
    if style.contrast == "histogram":
        return jnp.full((1, 1), min(pixels // 256, 255), jnp.int32)
    mean = jnp.mean(_gray(levels, style).astype(jnp.float32))
    return jnp.floor(mean + 0.5).astype(jnp.int32).reshape(1, 1)


def _autocontrast(levels: Array, v: Array) -> Array:
    low, high = (f(levels, axis=(1, 2))[:, None] for f in (jnp.min, jnp.max))
    stretched = jnp.clip((v - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, v)


def _equalize(levels: Array, v: Array) -> Array:
    flat = levels.reshape(3, -1)
    counts = jax.vmap(lambda x: jnp.bincount(x, length=256))(flat)
    last = jnp.take_along_axis(counts, jnp.max(flat, axis=1)[:, None], axis=1, mode="clip")
    step = (flat.shape[1] - last) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, v)


def _affine(levels: Array, kind: Array, a: Arguments, style: Style) -> Array:
    """Samples the picture at coordinates mapped by a 2x3 matrix; the fill outside."""
    H, W = levels.shape[1:]
    y, x = jnp.mgrid[:H, :W].astype(jnp.float32)
    middle_y, middle_x = (H - 1) / 2, (W - 1) / 2
    cos = jnp.where(kind == _ROTATE, a.cos, 1.0)
    sin = jnp.where(kind == _ROTATE, a.sin, 0.0)
    shear_x = jnp.where(kind == _SHEAR_X, a.shear, 0.0)
    shear_y = jnp.where(kind == _SHEAR_Y, a.shear, 0.0)
    shift_x = jnp.where(kind == _TRANSLATE_X, a.shift_x, 0.0)
    shift_y = jnp.where(kind == _TRANSLATE_Y, a.shift_y, 0.0)
    half = 0.5 if style.pil else 0.0  # Pillow shears about pixel centres
    # x' = cos (x - m) - sin (y - n) + m, written so that without a rotation it is exactly x
    column = x + (cos - 1) * (x - middle_x) - sin * (y - middle_y) + shear_x * (y + half) + shift_x
    row = y + (cos - 1) * (y - middle_y) + sin * (x - middle_x) + shear_y * (x + half) + shift_y
    if style.pil:
        moved, inside = _bicubic(levels, row, column, kind)
    else:
        row, column = _nearest(row), _nearest(column)
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        moved = _fetch(levels, jnp.where(inside, row * W + column, 0))
    return jnp.where(inside[None], moved, jnp.array(style.fill)[:, None, None])


def _fetch(levels: Array, place: Array) -> Array:
    """Returns [3,H,W]: the pixels at indices int32 [H,W] of the flat picture."""
    flat = levels.reshape(3, -1).at[:, place.reshape(-1)].get(mode="promise_in_bounds")
    return flat.reshape(levels.shape)


def _nearest(x: Array) -> Array:
    """Rounds to the nearest integer, halves away from 0, as TensorFlow's kernel does."""
    x = jnp.clip(x, -1e6, 1e6)
    return (jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)).astype(jnp.int32)


def _bicubic(levels: Array, row: Array, column: Array, kind: Array) -> tuple[Array, Array]:
    """Returns Pillow's bicubic (a = -1) of 4x4 pixels, truncated, and the mask of the inside.

    A shear or translation keeps whole rows or whole columns: only four pixels then have weight,
    and only these are gathered.
    """
    H, W = levels.shape[1:]
    inside = (row >= -0.5) & (row < H - 0.5) & (column >= -0.5) & (column < W - 0.5)
    row, column = (jnp.where(inside, v, 0.0) for v in (row, column))
    top, left = jnp.floor(row), jnp.floor(column)
    turns = kind == _ROTATE
    along_rows = (kind == _SHEAR_X) | (kind == _TRANSLATE_X)

    def add(n: Array, total: Array) -> Array:
        i = jnp.where(turns, n // 4, jnp.where(along_rows, 1, n)) - 1
        j = jnp.where(turns, n % 4, jnp.where(along_rows, n, 1)) - 1
        weight = _cubic(row - top - i) * _cubic(column - left - j)
        at_row = jnp.clip(top.astype(jnp.int32) + i, 0, H - 1)
        at_column = jnp.clip(left.astype(jnp.int32) + j, 0, W - 1)
        return total + weight[None] * _fetch(levels, at_row * W + at_column)

    total = jax.lax.fori_loop(0, jnp.where(turns, 16, 4), add, jnp.zeros(levels.shape, jnp.float32))
    return jnp.clip(jnp.floor(total + _EXACT), 0, 255).astype(jnp.int32), inside


def _cubic(t: Array) -> Array:
    """Returns Keys' kernel with a = -1."""
    t = jnp.abs(t)
    near = (t - 2) * t * t + 1
    far = ((5 - t) * t - 8) * t + 4
    return jnp.where(t < 1, near, jnp.where(t < 2, far, 0.0))
