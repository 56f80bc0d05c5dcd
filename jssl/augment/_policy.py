"""RandAugment as Noisy Student has it: N operations of 16, of one magnitude, on 8-bit levels.

Cubuk et al., CVPR Workshops 2020, https://arxiv.org/abs/1909.13719; what each operation does is
that of https://github.com/google-research/noisystudent, randaugment.py, with its two oddities as
switches (`contrast`, `lengths`). A magnitude above 10 is extrapolated, not clipped. There the
shift of posterize turns negative and the threshold of solarize exceeds 255, which nobody has
defined: here both then change nothing.

A switch over 16 operations would be cheap on a CPU, which computes the one that was drawn, and
dear under vmap on an accelerator, which computes all and selects. So the operations are five:

    pointwise   eight of them are a table of 256 levels a channel: only the table is switched
    affine      five of them fetch the nearest pixel by one 2x3 matrix
    color, sharpness, cutout

On one CPU core at 224 px (tests/benchmarks/bench_policy.py, one run): crop and flip take 0.70 ms an
image, with two operations 0.98; under vmap two operations take 7.2 ms this way and 12.0 ms as a
switch over 16, and 1.4 s against 5.8 s to compile.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.types import Array

_POINTWISE = ("autocontrast", "equalize", "invert", "posterize", "solarize", "contrast",
              "brightness", "solarize_add")  # fmt: skip
_AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_SINGLE = ("color", "sharpness", "cutout")
OPERATIONS = (*_POINTWISE, *_AFFINE, *_SINGLE)
CONTRASTS = ("histogram", "mean")
LENGTHS = ("pixels", "relative")
REFERENCE_SIDE = 600  # of B7's input, for which the official lengths in pixels were chosen
FILL = 128
NUMBERS = 4  # uniform numbers that an operation takes
_GRAY = (0.2989, 0.5870, 0.1140)


class Policy(NamedTuple):
    """The settings of RandAugment; see `rand_augment`."""

    magnitude: float = 10.0
    contrast: str = "mean"
    lengths: str = "relative"
    translate: float = 100.0
    cutout: float = 40.0

    def length(self, amount: float, side: int) -> float:
        """A length in pixels of a picture with this shorter side."""
        scale = side / REFERENCE_SIDE if self.lengths == "relative" else 1.0
        return self.magnitude / 10 * amount * scale


def rand_augment(
    key: Array,
    image: Array,
    *,
    ops: int = 2,
    magnitude: float = 10.0,
    contrast: str = "mean",
    lengths: str = "relative",
    translate: float = 100.0,
    cutout: float = 40.0,
) -> Array:
    """Applies `ops` operations, each drawn from the 16 with equal chance, one after the other.

    With m = magnitude: rotate by 3 m degrees, shear by .03 m, translate by `translate` m / 10 and
    cut a square of half side `cutout` m / 10 out (the first four to either side); colour,
    contrast, brightness and sharpness by the factor .18 m + .1; posterize to .4 m bits; solarize
    from 25.6 m; add 11 m to the levels below 128. What comes from outside is grey, 128.

    Args:
        key: typed PRNG key [].
        image: float [H,W,3] in [0, 1]; its 256 levels are worked on.
        ops: N, how many operations.
        magnitude: m >= 0; above 10 it goes on growing.
        contrast: 'mean': about the mean grey level, as in PIL. 'histogram': about H W / 256, as
            in the official code, which sums the histogram and not the levels.
        lengths: 'pixels' as in the official code, whatever the size of the image; 'relative':
            of an image of 600 pixels, for which they were chosen.
        translate, cutout: lengths at magnitude 10.

    Returns:
        float32 [H,W,3] in [0, 1], multiples of 1/255.

    Raises:
        UserError: an unknown word; a magnitude or length below 0.

    Example:
        >>> image = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
        >>> rand_augment(jax.random.key(0), image, ops=2, magnitude=5.0).shape
        (4, 4, 3)

    Reference:
        https://arxiv.org/abs/1909.13719; the official code's magnitudes for EfficientNets: none
        for B0 and B1, 6, 12, 15, 18, 24, 27 for B2 to B7.
    """
    policy = Policy(magnitude, contrast, lengths, translate, cutout)
    check(policy)
    u = jax.random.uniform(key, (ops, NUMBERS))
    return apply_policy(image.transpose(2, 0, 1), u, policy).transpose(1, 2, 0)


def check(policy: Policy) -> None:
    """Raises UserError for an unknown word or a number below 0."""
    for name, words in (("contrast", CONTRASTS), ("lengths", LENGTHS)):
        value = getattr(policy, name)
        if value not in words:
            raise UserError(f"Unknown {name} '{value}' of RandAugment: {nearest(value, words)}.")
    for name in ("magnitude", "translate", "cutout"):
        if not getattr(policy, name) >= 0:
            raise UserError(
                f"RandAugment expects {name} >= 0, found {getattr(policy, name)}. Type 10 for the "
                "usual magnitude."
            )


def apply_policy(planes: Array, u: Array, policy: Policy) -> Array:
    """The operations that the uniform numbers u [N,4] draw, on float [3,H,W] in [0, 1]."""
    levels = jnp.floor(jnp.clip(planes, 0.0, 1.0) * 255 + 0.5).astype(jnp.int32)

    def one(levels: Array, draw: Array) -> tuple[Array, None]:
        kind = jnp.minimum((draw[0] * len(OPERATIONS)).astype(jnp.int32), len(OPERATIONS) - 1)
        return operation(levels, kind, draw[1:], policy), None

    levels, _ = jax.lax.scan(one, levels, u)  # compiled once for all N
    return levels.astype(jnp.float32) / 255


def operation(levels: Array, kind: Array, u: Array, policy: Policy) -> Array:
    """One operation.

    Args:
        levels: int32 [3,H,W] in 0..255.
        kind: int32 [], place in `OPERATIONS`.
        u: float32 [3] uniform in [0, 1): side of a signed operation; row and column of a cutout.
        policy: the settings.

    Returns:
        int32 [3,H,W] in 0..255.
    """
    factor = policy.magnitude / 10 * 1.8 + 0.1
    H, W = levels.shape[1:]
    pad = round(policy.length(policy.cutout, min(H, W)))
    branches = [
        lambda x: _pointwise(x, jnp.minimum(kind, len(_POINTWISE) - 1), policy, factor),
        lambda x: _affine(x, kind - len(_POINTWISE), jnp.where(u[0] < 0.5, 1.0, -1.0), policy),
        lambda x: _blend(jnp.broadcast_to(_gray(x), x.shape), x, factor),
        lambda x: _blend(_smooth(x), x, factor),
        lambda x: cut_square(x, u[1:], pad=pad, fill=FILL),
    ]
    families = [0] * len(_POINTWISE) + [1] * len(_AFFINE) + [2, 3, 4]
    return jax.lax.switch(jnp.array(families)[kind], branches, levels)


def cut_square(x: Array, u: Array, *, pad: int, fill: float) -> Array:
    """[C,H,W] with a square of side 2 pad filled, its centre at u [2] uniform; cut at the edges."""
    H, W = x.shape[1:]
    row, column = jnp.floor(u[0] * H), jnp.floor(u[1] * W)
    rows, columns = jnp.arange(H)[:, None], jnp.arange(W)[None, :]
    inside = (rows >= row - pad) & (rows < row + pad)
    inside &= (columns >= column - pad) & (columns < column + pad)
    return jnp.where(inside[None], jnp.asarray(fill, x.dtype), x)


def _blend(degenerate: Array, levels: Array, factor: float) -> Array:
    """From the degenerate picture (0) to the picture (1) and beyond, cut to whole levels."""
    low = degenerate.astype(jnp.float32)
    mixed = low + factor * (levels.astype(jnp.float32) - low)
    return jnp.clip(mixed, 0.0, 255.0).astype(jnp.int32)


def _gray(levels: Array) -> Array:
    """int32 [1,H,W]: TensorFlow's grey of 8-bit pictures, cut and not rounded."""
    total = sum(w * c.astype(jnp.float32) for w, c in zip(_GRAY, levels, strict=True))
    return (total * (255.5 / 255)).astype(jnp.int32)[None]


def _smooth(levels: Array) -> Array:
    """The mean of 3x3 pixels in which the own counts five times; the edge stays as it is."""
    H, W = levels.shape[1:]
    around = [levels[:, i : i + H - 2, j : j + W - 2] for i in range(3) for j in range(3)]
    inner = (sum(around) + 4 * around[4]) // 13
    return levels.at[:, 1:-1, 1:-1].set(inner) if min(H, W) > 2 else levels


def _pointwise(levels: Array, kind: Array, policy: Policy, factor: float) -> Array:
    """Looks every level up in the table [3,256] of an operation."""
    m = policy.magnitude / 10
    v = jnp.broadcast_to(jnp.arange(256)[None, :], (3, 256))
    shift = min(max(8 - int(m * 4), 0), 8)
    brighter = jnp.minimum(v + int(m * 110), 255)
    makers = [
        lambda: _autocontrast(levels, v),
        lambda: _equalize(levels, v),
        lambda: 255 - v,
        lambda: (v >> shift) << shift,
        lambda: jnp.where(v < int(m * 256), v, 255 - v),
        lambda: _blend(_middle(levels, policy.contrast), v, factor),
        lambda: _blend(jnp.zeros_like(v), v, factor),
        lambda: jnp.where(v < 128, brighter, v),
    ]
    table = jax.lax.switch(kind, makers)
    flat = levels.reshape(3, -1)
    return jnp.take_along_axis(table, flat, axis=1, mode="clip").reshape(levels.shape)


def _middle(levels: Array, contrast: str) -> Array:
    """The level [1,1] that contrast leaves where it is."""
    pixels = levels.shape[1] * levels.shape[2]
    if contrast == "histogram":
        return jnp.full((1, 1), min(pixels // 256, 255), jnp.int32)
    mean = jnp.mean(_gray(levels).astype(jnp.float32))
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


def _affine(levels: Array, kind: Array, sign: Array, policy: Policy) -> Array:
    """The pixel nearest to where a 2x3 matrix takes each place; grey where there is none."""
    H, W = levels.shape[1:]
    m = policy.magnitude / 10
    shear, shift = m * 0.3, policy.length(policy.translate, min(H, W))
    angle = math.radians(m * 30)
    cos, sin = math.cos(angle), math.sin(angle)
    away = ((1 - cos) * (W - 1) / 2, sin * (H - 1) / 2, (1 - cos) * (H - 1) / 2, sin * (W - 1) / 2)
    matrices: Sequence[tuple[float, ...]] = (  # what stands still, then what the sign turns
        (cos, 0, away[0], 0, cos, away[2]),
        *[(1, 0, 0, 0, 1, 0)] * 4,
    )
    turned: Sequence[tuple[float, ...]] = (
        (0, -sin, away[1], sin, 0, -away[3]),
        (0, shear, 0, 0, 0, 0),
        (0, 0, 0, shear, 0, 0),
        (0, 0, shift, 0, 0, 0),
        (0, 0, 0, 0, 0, shift),
    )
    kind = jnp.clip(kind, 0, len(_AFFINE) - 1)
    a = jnp.array(matrices, jnp.float32)[kind] + sign * jnp.array(turned, jnp.float32)[kind]
    y, x = jnp.mgrid[:H, :W].astype(jnp.float32)
    column = _nearest(a[0] * x + a[1] * y + a[2])
    row = _nearest(a[3] * x + a[4] * y + a[5])
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    place = jnp.where(inside, row * W + column, 0).reshape(-1)
    moved = levels.reshape(3, -1).at[:, place].get(mode="promise_in_bounds")
    return jnp.where(inside[None], moved.reshape(levels.shape), FILL)


def _nearest(x: Array) -> Array:
    """To the nearest whole number, halves away from 0, as TensorFlow's kernel does."""
    x = jnp.clip(x, -1e6, 1e6)
    return (jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)).astype(jnp.int32)
