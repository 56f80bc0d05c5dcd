"""Augmentation policies: RandAugment in two forms, and AutoAugment.

    tf           N of 16 operations, always applied, with one magnitude, as in Noisy Student
    timm         N of 15 operations, each with a probability and a random magnitude, which always
                 increases the strength: `rand-m9-mstd0.5-inc1`, as in DeiT
    autoaugment  one of 25 pairs of operations, each with its own probability and magnitude

RandAugment: Cubuk et al., CVPR Workshops 2020, https://arxiv.org/abs/1909.13719; form 'tf' is that
of https://github.com/google-research/noisystudent, randaugment.py, with options for its two
peculiarities (`contrast`, `lengths`). There a magnitude above 10 is extrapolated, not clipped: the
shift of posterize turns negative and the threshold of solarize exceeds 255, which is undefined:
here both then change nothing. Form 'timm' is that of timm's data/auto_augment.py.
AutoAugment: Cubuk et al., CVPR 2019, https://arxiv.org/abs/1805.09501; the pairs are policy 'v0' of
https://github.com/tensorflow/tpu, models/official/efficientnet/autoaugment.py. It is not the table
of the paper's appendix, which timm calls 'original'.

All random numbers are drawn first and mapped to indices of `OPERATIONS` and `Arguments`;
jssl/augment/_operations.py then applies them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment._operations import (
    CONTRASTS,
    NOTHING,
    OPERATIONS,
    Arguments,
    Style,
    operation,
)
from jssl.errors import UserError, nearest
from jssl.types import Array

FORMS = ("tf", "timm", "autoaugment")
LENGTHS = ("pixels", "relative")
REFERENCE_SIDE = 600  # input size of B7, for which the official lengths in pixels were chosen
NUMBERS = 4  # uniform numbers of an operation
PAIR = 2  # operations of AutoAugment
INCREASING = OPERATIONS[:-1]  # timm has no cutout
_SHARE = 0.45  # timm's translation at magnitude 10, as a share of the side
AUTOAUGMENT = (  # name, probability, magnitude of both operations
    ("equalize", 0.8, 1, "shear_y", 0.8, 4),
    ("color", 0.4, 9, "equalize", 0.6, 3),
    ("color", 0.4, 1, "rotate", 0.6, 8),
    ("solarize", 0.8, 3, "equalize", 0.4, 7),
    ("solarize", 0.4, 2, "solarize", 0.6, 2),
    ("color", 0.2, 0, "equalize", 0.8, 8),
    ("equalize", 0.4, 8, "solarize_add", 0.8, 3),
    ("shear_x", 0.2, 9, "rotate", 0.6, 8),
    ("color", 0.6, 1, "equalize", 1.0, 2),
    ("invert", 0.4, 9, "rotate", 0.6, 0),
    ("equalize", 1.0, 9, "shear_y", 0.6, 3),
    ("color", 0.4, 7, "equalize", 0.6, 0),
    ("posterize", 0.4, 6, "autocontrast", 0.4, 7),
    ("solarize", 0.6, 8, "color", 0.6, 9),
    ("solarize", 0.2, 4, "rotate", 0.8, 9),
    ("rotate", 1.0, 7, "translate_y", 0.8, 9),
    ("shear_x", 0.0, 0, "solarize", 0.8, 4),
    ("shear_y", 0.8, 0, "color", 0.6, 4),
    ("color", 1.0, 0, "rotate", 0.6, 2),
    ("equalize", 0.8, 4, "equalize", 0.0, 8),
    ("equalize", 1.0, 4, "autocontrast", 0.6, 2),
    ("shear_y", 0.4, 7, "solarize_add", 0.6, 7),
    ("posterize", 0.8, 2, "solarize", 0.6, 10),
    ("solarize", 0.6, 8, "equalize", 0.6, 1),
    ("color", 0.8, 6, "rotate", 0.4, 5),
)


class Policy(NamedTuple):
    """The settings of a policy; see `rand_augment` and `auto_augment`."""

    magnitude: float = 10.0
    contrast: str = "mean"
    lengths: str = "relative"
    translate: float = 100.0
    cutout: float = 40.0
    form: str = "tf"
    chance: float = 0.5
    deviation: float = 0.5
    fill: tuple[int, ...] = (128, 128, 128)

    def length(self, amount: float, side: int, magnitude: float) -> float:
        """Returns a length in pixels for a picture with this shorter side."""
        scale = side / REFERENCE_SIDE if self.lengths == "relative" else 1.0
        return magnitude / 10 * amount * scale

    def style(self, height: int, width: int) -> Style:
        """Returns the static settings of the operations for a picture of this size."""
        pad = round(self.length(self.cutout, min(height, width), self.magnitude))
        return Style(self.form == "timm", self.contrast, tuple(self.fill), pad)


class Plan(NamedTuple):
    """The operations of a picture: indices of `OPERATIONS` int32 [N], and arguments [N] each."""

    kinds: Array
    arguments: Arguments


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
    form: str = "tf",
    chance: float = 0.5,
    deviation: float = 0.5,
    fill: tuple[int, int, int] = (128, 128, 128),
) -> Array:
    """Applies `ops` operations in sequence, each drawn with equal probability.

    Form 'tf' with m = magnitude: of 16 operations; rotate by 3 m degrees, shear by .03 m, translate
    by `translate` m / 10 (these with a random sign), cut out a square of half side `cutout` m / 10;
    colour, contrast, brightness and sharpness by the factor .18 m + .1; posterize to .4 m bits;
    solarize from 25.6 m; add 11 m to the levels below 128.

    Form 'timm', of the first 15: each is applied with probability `chance`, with its own m, normal
    about `magnitude` and clipped to [0, 10]. All grow with m: the factor is 1 plus or minus .09 m,
    posterize keeps 4 - .4 m bits, solarize starts at 256 - 25.6 m, and the translation is .045 m of
    the side. Geometric operations resample with bicubic.

    Args:
        key: typed PRNG key [].
        image: float [H,W,3] in [0, 1]; rounded to 256 levels.
        ops: N, number of operations.
        magnitude: m >= 0; above 10 it is extrapolated in form 'tf'.
        contrast: of form 'tf'; 'mean': about the mean grey level, as in PIL. 'histogram': about
            H W / 256, as in the official code, which sums the histogram and not the levels.
        lengths: of form 'tf'; 'pixels' as in the official code, for any image size; 'relative': to
            an image of 600 pixels, for which they were chosen.
        translate, cutout: lengths at magnitude 10, of form 'tf'.
        form: 'tf' | 'timm'.
        chance, deviation: of form 'timm', probability of an operation, deviation of its magnitude.
        fill: levels of pixels from outside; timm's are the data's mean, (124, 116, 104).

    Returns:
        float32 [H,W,3] in [0, 1], multiples of 1/255.

    Raises:
        UserError: an unknown value; a number out of range.

    Example:
        >>> image = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
        >>> rand_augment(jax.random.key(0), image, ops=2, magnitude=5.0).shape
        (4, 4, 3)

    Reference:
        https://arxiv.org/abs/1909.13719; the official code's magnitudes for EfficientNets: none
        for B0 and B1, 6, 12, 15, 18, 24, 27 for B2 to B7. DeiT's: form 'timm' at 9.
    """
    policy = Policy(
        magnitude, contrast, lengths, translate, cutout, form, chance, deviation, tuple(fill)
    )
    check(policy)
    if form == "autoaugment":
        raise UserError("rand_augment has the forms 'tf' and 'timm'. Call auto_augment.")
    return _on_image(image, jax.random.uniform(key, (ops, NUMBERS)), policy)


def auto_augment(
    key: Array,
    image: Array,
    *,
    lengths: str = "relative",
    translate: float = 250.0,
    fill: tuple[int, int, int] = (128, 128, 128),
) -> Array:
    """Applies one of the 25 pairs of operations of AutoAugment's ImageNet policy 'v0'.

    Each of the pair has its own probability and magnitude; the operations are those of
    `rand_augment`'s form 'tf'.

    Args:
        key: typed PRNG key [].
        image: float [H,W,3] in [0, 1]; rounded to 256 levels.
        lengths, translate: of a translation, see `rand_augment`. In pixels (official code) the
            only translation, by 225, removes all of a picture of 224.
        fill: levels of pixels from outside.

    Returns:
        float32 [H,W,3] in [0, 1], multiples of 1/255.

    Raises:
        UserError: an unknown value; a number out of range.

    Example:
        >>> image = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
        >>> auto_augment(jax.random.key(0), image).shape
        (4, 4, 3)

    Reference:
        Cubuk et al., CVPR 2019, https://arxiv.org/abs/1805.09501.
    """
    policy = Policy(lengths=lengths, translate=translate, fill=tuple(fill), form="autoaugment")
    check(policy)
    return _on_image(image, jax.random.uniform(key, (PAIR, NUMBERS)), policy)


def check(policy: Policy) -> None:
    """Raises UserError for an unknown value or a number out of range."""
    choices = (("contrast", CONTRASTS), ("lengths", LENGTHS), ("form", FORMS))
    for name, known in choices:
        value = getattr(policy, name)
        if value not in known:
            raise UserError(f"Unknown {name} '{value}' of RandAugment: {nearest(value, known)}.")
    for name in ("magnitude", "translate", "cutout", "deviation"):
        if not getattr(policy, name) >= 0:
            raise UserError(
                f"RandAugment expects {name} >= 0, found {getattr(policy, name)}. Type 10 for the "
                "usual magnitude."
            )
    if not 0 <= policy.chance <= 1:
        raise UserError(f"RandAugment expects a chance in [0, 1], found {policy.chance}.")
    if len(policy.fill) != 3 or not all(0 <= level <= 255 for level in policy.fill):
        raise UserError(f"RandAugment expects three levels in 0..255 as fill, found {policy.fill}.")


def _on_image(image: Array, u: Array, policy: Policy) -> Array:
    return apply_policy(image.transpose(2, 0, 1), u, policy).transpose(1, 2, 0)


def apply_policy(planes: Array, u: Array, policy: Policy) -> Array:
    """Applies the operations drawn from uniform numbers u [N,4] to float [3,H,W] in [0, 1]."""
    levels = jnp.floor(jnp.clip(planes, 0.0, 1.0) * 255 + 0.5).astype(jnp.int32)
    H, W = levels.shape[1:]
    style = policy.style(H, W)

    def body(levels: Array, step: tuple[Plan, Array]) -> tuple[Array, None]:
        (kind, arguments), places = step
        return operation(levels, kind, arguments, places, style), None

    if len(u):  # compiled once for all N
        levels, _ = jax.lax.scan(body, levels, (plan(u, policy, H, W), u[:, 2:]))
    return levels.astype(jnp.float32) / 255


def plan(u: Array, policy: Policy, height: int, width: int) -> Plan:
    """Returns the plan drawn from uniform numbers u [N,4] for a picture of this size."""
    return _PLANS[policy.form](u, policy, height, width)


def tf_arguments(magnitude: float, policy: Policy, height: int, width: int) -> Arguments:
    """Returns the strengths of form 'tf' at a magnitude, as numbers."""
    m, angle = magnitude / 10, math.radians(magnitude * 3)
    shift = policy.length(policy.translate, min(height, width), magnitude)
    return Arguments(
        bits=int(m * 4),
        threshold=int(m * 256),
        addition=int(m * 110),
        factor=m * 1.8 + 0.1,
        cos=math.cos(angle),
        sin=math.sin(angle),
        shear=m * 0.3,
        shift_x=shift,
        shift_y=shift,
    )


# 0.09 to 11 bits: its product with a magnitude such as 9 or 7.5 is exact, so that the factor equals
# the double that Pillow gets, rounded once.
_FACTOR_HIGH = round(0.09 * 2**14) / 2**14


def timm_arguments(m: Array, sign: Array, height: int, width: int) -> Arguments:
    """Returns the strengths of form 'timm' at magnitudes m in [0, 10], with a sign."""

    def scaled(most: int) -> Array:
        return jnp.floor(m * most / 10).astype(jnp.int32)

    angle = m * math.radians(3)
    return Arguments(
        bits=4 - scaled(4),
        threshold=256 - scaled(256),
        addition=scaled(110),
        factor=(1 + sign * (m * _FACTOR_HIGH)) + sign * (m * (0.09 - _FACTOR_HIGH)),
        cos=jnp.cos(angle),
        sin=jnp.sin(angle),
        shear=m * 0.03,
        shift_x=m * (_SHARE / 10 * width),
        shift_y=m * (_SHARE / 10 * height),
    ).with_sign(sign)


def _index(u: Array, count: int) -> Array:
    return jnp.minimum((u * count).astype(jnp.int32), count - 1)


def _sign(u: Array) -> Array:
    return jnp.where(u < 0.5, 1.0, -1.0)


def _plan_tf(u: Array, policy: Policy, height: int, width: int) -> Plan:
    strengths = tf_arguments(policy.magnitude, policy, height, width)
    all_n = jax.tree.map(lambda v: jnp.full(len(u), v), strengths)
    return Plan(_index(u[:, 0], len(OPERATIONS)), all_n.with_sign(_sign(u[:, 1])))


def _plan_timm(u: Array, policy: Policy, height: int, width: int) -> Plan:
    inside = jnp.maximum(2 * u[:, 2] - 1, -1 + 2.0**-24)  # u may be 0, and erf_inv(-1) is -inf
    normal = math.sqrt(2) * jax.lax.erf_inv(inside)
    m = jnp.clip(policy.magnitude + policy.deviation * normal, 0.0, 10.0)
    arguments = timm_arguments(m, _sign(u[:, 3]), height, width)
    kinds = jnp.where(u[:, 1] < policy.chance, _index(u[:, 0], len(INCREASING)), NOTHING)
    return Plan(kinds, arguments)


def _plan_autoaugment(u: Array, policy: Policy, height: int, width: int) -> Plan:
    entries = [pair[:3] for pair in AUTOAUGMENT] + [pair[3:] for pair in AUTOAUGMENT]
    chosen = _index(u[0, 0], len(AUTOAUGMENT)) + len(AUTOAUGMENT) * jnp.arange(PAIR)

    def table(values: Any) -> Array:
        return jnp.array(list(values))[chosen]

    kinds = table(OPERATIONS.index(name) for name, _, _ in entries)
    chances = table(chance for _, chance, _ in entries)
    strengths = [tf_arguments(m, policy, height, width) for _, _, m in entries]
    arguments = Arguments(*map(table, zip(*strengths, strict=True)))
    kinds = jnp.where(u[:, 1] < chances, kinds, NOTHING)
    return Plan(kinds, arguments.with_sign(_sign(u[:, 3])))


_PLANS = {"tf": _plan_tf, "timm": _plan_timm, "autoaugment": _plan_autoaugment}
