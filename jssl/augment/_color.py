"""Colour jitter, grayscale and solarize, with TensorFlow's and torchvision's semantics.

The two families use the same names for different operations:

                  'tf' (SimCLR, BYOL)                  'torchvision' (MoCo)
    contrast      about the mean of each channel       about the mean of the gray picture
    saturation    scales S of HSV                      blends with the gray picture
    gray          .2989 R + .5870 G + .1140 B          .299 R + .587 G + .114 B (PIL's 'L')

Brightness is additive (SimCLR v1, BYOL) or multiplicative (SimCLR v2, torchvision); hue shifts H
of HSV in both. Everything is float32, without PIL's rounding to 8 bits after each operation.

The functions work on planes, one array a channel: interleaved channels do not vectorise, and
stacking them between operations made the batched jitter on a CPU fifteen times slower.

Solarize is dm_pix's. dm_pix also has hue, saturation and per-channel contrast, with the same values
(the tests compare them), but converts to HSV and back, with three divisions and a remainder a pixel
against at most one division below: twice the time. It has no torchvision forms.
"""

from collections.abc import Callable
from typing import NamedTuple

import dm_pix as pix
import jax
import jax.numpy as jnp

from jssl.types import Array

Planes = tuple[Array, Array, Array]  # red, green, blue: float32 [H,W] each

SEMANTICS = ("tf", "torchvision")
BRIGHTNESS = ("additive", "multiplicative")
_GRAY = {"tf": (0.2989, 0.5870, 0.1140), "torchvision": (0.299, 0.587, 0.114)}


def _on_planes(f: Callable[[Planes], Planes], image: Array) -> Array:
    """Applies `f` to the planes of a float image [H,W,3]."""
    if image.shape[-1] != 3:
        raise ValueError(f"Colour needs 3 channels on the last axis, found shape {image.shape}.")
    image = image.astype(jnp.float32)
    return jnp.stack(f((image[..., 0], image[..., 1], image[..., 2])), axis=-1)


def _map(f: Callable[[Array], Array], planes: Planes) -> Planes:
    red, green, blue = planes
    return f(red), f(green), f(blue)


def _gray(planes: Planes, semantics: str) -> Array:
    terms = [w * x for w, x in zip(_GRAY[semantics], planes, strict=True)]
    return sum(terms[1:], terms[0])


def gray_planes(planes: Planes, semantics: str) -> Planes:
    """`grayscale` on planes."""
    gray = _gray(planes, semantics)
    return gray, gray, gray


def grayscale(image: Array, *, semantics: str = "tf") -> Array:
    """Converts to gray, repeated on all three channels.

    Args:
        image: float [H,W,3] in [0, 1].
        semantics: 'tf' for the weights of `tf.image.rgb_to_grayscale`, 'torchvision' for PIL's.

    Returns:
        float32 [H,W,3].

    Raises:
        ValueError: not three channels.

    Example:
        >>> print(grayscale(jnp.array([[[1.0, 0.0, 0.0]]])))
        [[[0.2989 0.2989 0.2989]]]

    Reference: ITU-R BT.601; https://www.tensorflow.org/api_docs/python/tf/image/rgb_to_grayscale
    """
    return _on_planes(lambda planes: gray_planes(planes, semantics), image)


def _brightness(planes: Planes, amount: Array, mode: str) -> Planes:
    return _map(lambda x: x + amount if mode == "additive" else x * amount, planes)


def adjust_brightness(image: Array, amount: Array, *, mode: str = "multiplicative") -> Array:
    """Computes `image * amount`, or `image + amount` in mode 'additive'. Not clipped."""
    return _on_planes(lambda planes: _brightness(planes, amount, mode), image)


def _contrast(planes: Planes, factor: Array, semantics: str) -> Planes:
    if semantics == "tf":
        red, green, blue = _map(jnp.mean, planes)
    else:
        red = green = blue = jnp.mean(_gray(planes, semantics))
    means = (red, green, blue)
    red, green, blue = ((x - m) * factor + m for x, m in zip(planes, means, strict=True))
    return red, green, blue


def adjust_contrast(image: Array, factor: Array, *, semantics: str = "tf") -> Array:
    """Computes `(image - mean) * factor + mean`. Not clipped.

    Args:
        image: float [H,W,3] in [0, 1].
        factor: [] >= 0; 1 changes nothing.
        semantics: the mean of each channel ('tf'), or of the gray picture ('torchvision').

    Returns:
        float32 [H,W,3].

    Raises:
        ValueError: not three channels.

    Example:
        >>> image = jnp.array([[[0.25, 0.0, 0.0], [0.5, 0.0, 0.0]]])
        >>> print(adjust_contrast(image, 2.0)[..., 0])
        [[0.125 0.625]]

    Reference: https://www.tensorflow.org/api_docs/python/tf/image/adjust_contrast;
        torchvision.transforms.functional.adjust_contrast.
    """
    return _on_planes(lambda planes: _contrast(planes, factor, semantics), image)


def _saturation(planes: Planes, factor: Array, semantics: str) -> Planes:
    if semantics == "torchvision":
        gray = _gray(planes, semantics)
        return _map(lambda x: factor * x + (1 - factor) * gray, planes)
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    # S' / S = min(factor S, 1) / S; without chroma, V - x is 0 and the ratio has no effect.
    ratio = jnp.clip(value / jnp.where(chroma > 0, chroma, 1.0), 0.0, factor)
    return _map(lambda x: value - (value - x) * ratio, planes)


def adjust_saturation(image: Array, factor: Array, *, semantics: str = "tf") -> Array:
    """Scales S of HSV within [0, 1] ('tf'), or interpolates between gray and colour.

    In HSV, V = max(R, G, B) and S = (V - min) / V, and a channel x keeps (V - x) / (V - min) when
    only S changes. So the conversion to HSV and back reduces to x' = V - (V - x) S' / S.

    Args:
        image: float [H,W,3] in [0, 1].
        factor: [] >= 0; 0 is gray, 1 changes nothing.
        semantics: 'tf', or 'torchvision' for `factor * image + (1 - factor) * gray`, not clipped.

    Returns:
        float32 [H,W,3].

    Raises:
        ValueError: not three channels.

    Example:
        >>> image = jnp.array([[[0.75, 0.5, 0.5]]])
        >>> print(adjust_saturation(image, 2.0))
        [[[0.75 0.25 0.25]]]

    Reference: https://www.tensorflow.org/api_docs/python/tf/image/adjust_saturation;
        torchvision.transforms.functional.adjust_saturation.
    """
    return _on_planes(lambda planes: _saturation(planes, factor, semantics), image)


def _hue(planes: Planes, delta: Array) -> Planes:
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    c = value - low
    from_green = jnp.where(value == green, blue - red + 2 * c, red - green + 4 * c)
    hue = jnp.where(value == red, green - blue, from_green)
    hue = hue + (6 * delta) * c  # within [-4c, 8c], so that |hue - k c| < 9c below

    def channel(k: int) -> Array:  # red, green, blue lie at k = 0, 2, 4 sixths
        distance = jnp.abs(hue - k * c)
        distance = jnp.minimum(distance, jnp.abs(6 * c - distance))  # the shorter way round
        return low + jnp.clip(2 * c - distance, 0.0, c)

    return channel(0), channel(2), channel(4)


def adjust_hue(image: Array, delta: Array) -> Array:
    """Adds `delta` turns to H of HSV.

    With V = max, m = min and c = V - m, a channel whose colour lies d sixths of a turn from the
    hue is m + clip(2 - d, 0, 1) c. With the hue in sixths TIMES c, the conversion to HSV and back
    needs no division:

        h c = G - B  |  B - R + 2c  |  R - G + 4c      where R | G | B is the largest

    Args:
        image: float [H,W,3] in [0, 1].
        delta: [] in turns, within [-0.5, 0.5].

    Returns:
        float32 [H,W,3].

    Raises:
        ValueError: not three channels.

    Example:
        >>> print(adjust_hue(jnp.array([[[1.0, 0.0, 0.0]]]), 1 / 3))  # red becomes green
        [[[0. 1. 0.]]]

    Reference: https://www.tensorflow.org/api_docs/python/tf/image/adjust_hue;
        torchvision.transforms.functional.adjust_hue (float images: the same values).
    """
    return _on_planes(lambda planes: _hue(planes, delta), image)


class Jitter(NamedTuple):
    """Random numbers of one colour jitter.

    Attributes:
        order: int32 [4], a permutation of brightness 0, contrast 1, saturation 2, hue 3; all 4
            when the jitter is not applied.
        amounts: float32 [4], in the order brightness, contrast, saturation, hue.
    """

    order: Array
    amounts: Array


JITTER_NUMBERS = 9  # uniform numbers of one jitter


def jitter_from(
    u: Array,
    *,
    p: float | Array,
    amplitudes: tuple[float, float, float, float],
    brightness: str,
) -> Jitter:
    """Draws a `Jitter` from [9] numbers uniform in [0, 1).

    The 24 orders are equally likely, and each amount is uniform in its range.
    """
    low = [max(0.0, 1 - a) for a in amplitudes[:3]] + [-amplitudes[3]]
    high = [1 + a for a in amplitudes[:3]] + [amplitudes[3]]
    if brightness == "additive":
        low[0], high[0] = -amplitudes[0], amplitudes[0]
    order = jnp.where(u[0] < p, jnp.argsort(u[1:5]), 4)
    lows, highs = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)
    return Jitter(order.astype(jnp.int32), lows + u[5:] * (highs - lows))


def jitter_planes(planes: Planes, jitter: Jitter, *, semantics: str, brightness: str) -> Planes:
    """Applies a colour jitter, clipping to [0, 1] after each operation."""
    amounts = jitter.amounts
    operations = [
        lambda x: _brightness(x, amounts[0], brightness),
        lambda x: _contrast(x, amounts[1], semantics),
        lambda x: _saturation(x, amounts[2], semantics),
        lambda x: _hue(x, amounts[3]),
    ]
    clip = lambda x: jnp.clip(x, 0.0, 1.0)  # noqa: E731
    branches = [lambda x, f=f: _map(clip, f(x)) for f in operations] + [lambda x: x]
    # Under vmap a switch computes all branches and selects: a few operations a pixel. For one
    # image, as in `batch_views` on the CPU, it computes only the branch that was drawn.
    for i in range(4):
        planes = jax.lax.switch(jitter.order[i], branches, planes)
    return planes


def color_jitter(
    key: Array,
    image: Array,
    *,
    p: float = 0.8,
    amplitudes: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
    semantics: str = "tf",
    brightness: str = "multiplicative",
) -> Array:
    """Applies brightness, contrast, saturation and hue in random order with probability p.

    Clips to [0, 1] after each operation.

    Args:
        key: typed PRNG key [].
        image: float [H,W,3] in [0, 1].
        p: probability of the jitter.
        amplitudes: of brightness, contrast, saturation (factors are uniform in
            [max(0, 1 - a), 1 + a]) and hue (turns, uniform in [-a, a]).
        semantics: 'tf' or 'torchvision'.
        brightness: 'multiplicative', or 'additive' with amounts uniform in [-a, a].

    Returns:
        float32 [H,W,3]; in [0, 1] where the jitter was applied.

    Raises:
        ValueError: not three channels.

    Example:
        >>> image = jnp.full((4, 4, 3), 0.5)
        >>> color_jitter(jax.random.key(0), image).shape
        (4, 4, 3)

    Reference: Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, appendix A; official code
        https://github.com/google-research/simclr, data_util.py (impl 'simclrv1': additive,
        'simclrv2': multiplicative); torchvision.transforms.ColorJitter.
    """
    u = jax.random.uniform(key, (JITTER_NUMBERS,))
    jitter = jitter_from(u, p=p, amplitudes=amplitudes, brightness=brightness)
    return _on_planes(
        lambda x: jitter_planes(x, jitter, semantics=semantics, brightness=brightness), image
    )


def random_grayscale(key: Array, image: Array, *, p: float = 0.2, semantics: str = "tf") -> Array:
    """Applies `grayscale` to a float [H,W,3] image with probability p."""
    return jnp.where(jax.random.uniform(key) < p, grayscale(image, semantics=semantics), image)


def solarize(image: Array, *, threshold: float = 0.5) -> Array:
    """Inverts values at or above the threshold; float image in [0, 1] of any shape.

    BYOL's threshold is 0.5, PIL's and so MoCo v3's is 128 of 255.

    Example:
        >>> print(solarize(jnp.array([0.25, 0.5, 0.75])))
        [0.25 0.5  0.25]
    """
    return pix.solarize(image, threshold)


def random_solarize(key: Array, image: Array, *, p: float = 0.2, threshold: float = 0.5) -> Array:
    """Applies `solarize` with probability p."""
    return jnp.where(jax.random.uniform(key) < p, solarize(image, threshold=threshold), image)
