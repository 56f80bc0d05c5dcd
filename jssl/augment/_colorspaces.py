"""Converts sRGB to Lab and YCbCr, as scikit-image does, on the device."""

import jax.numpy as jnp

from jssl.types import Array

# Linear sRGB to CIE XYZ, and the white point D65 seen by the 2 degree observer.
_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
# ITU-R BT.601, limited range: Y in [16, 235], Cb and Cr in [16, 240].
_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


def _planes(image: Array) -> list[Array]:
    if image.shape[-1] != 3:
        raise ValueError(f"Colour needs 3 channels on the last axis, found shape {image.shape}.")
    return [image[..., c].astype(jnp.float32) for c in range(3)]


def _weigh(weights: tuple[float, ...], planes: list[Array]) -> Array:
    terms = [w * x for w, x in zip(weights, planes, strict=True)]
    return sum(terms[1:], terms[0])


def rgb_to_lab(image: Array) -> Array:
    """Converts sRGB to CIE L*a*b* under D65.

    Args:
        image: float [...,3] in [0, 1], sRGB.

    Returns:
        float32 [...,3]: L in [0, 100], a in [-86.2, 98.3], b in [-107.9, 94.5].

    Raises:
        ValueError: not three channels.

    Example:
        >>> print(rgb_to_lab(jnp.array([1.0, 0.0, 0.0])).round())
        [53. 80. 67.]

    Reference: skimage.color.rgb2lab; IEC 61966-2-1 and CIE 15.
    """
    linear = [
        jnp.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92) for x in _planes(image)
    ]
    xyz = [_weigh(row, linear) / white for row, white in zip(_XYZ, _WHITE, strict=True)]
    fx, fy, fz = (jnp.where(t > 0.008856, jnp.cbrt(t), 7.787 * t + 16 / 116) for t in xyz)
    return jnp.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def rgb_to_ycbcr(image: Array) -> Array:
    """Converts sRGB to luma and two colour differences, ITU-R BT.601.

    Args:
        image: float [...,3] in [0, 1], sRGB.

    Returns:
        float32 [...,3]: Y in [16, 235], Cb and Cr in [16, 240].

    Raises:
        ValueError: not three channels.

    Example:
        >>> print(rgb_to_ycbcr(jnp.array([1.0, 1.0, 1.0])))
        [235. 128. 128.]

    Reference: skimage.color.rgb2ycbcr.
    """
    planes = _planes(image)
    rows = zip(_YCBCR, _YCBCR_OFFSET, strict=True)
    return jnp.stack([_weigh(row, planes) + offset for row, offset in rows], axis=-1)
