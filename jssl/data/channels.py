"""Channels and levels of pictures: to one grey channel, and 16 bits to 8 by a declared range."""

import math
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from jssl.errors import UserError

LARGEST = 65535  # level of 16 bits
Range = tuple[float, ...]  # () or (low, high)


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """Converts red, green and blue to luma, ITU-R BT.601, as Pillow's mode 'L'.

    Equal channels keep their value.

    Args:
        rgb: uint8 [...,W,3].

    Returns:
        uint8 [...,W,1].

    Example:
        >>> grey_of(np.array([[[255, 0, 0], [9, 9, 9]]], np.uint8)).ravel().tolist()
        [76, 9]
    """
    flat = np.ascontiguousarray(rgb).reshape(math.prod(rgb.shape[:-2]), rgb.shape[-2], 3)
    return np.asarray(Image.fromarray(flat).convert("L")).reshape(*rgb.shape[:-1], 1)


def scaled(levels: np.ndarray, limits: Range) -> tuple[np.ndarray, list[str]]:
    """Converts levels of 16 bits to 8: low to 0, high to 255, linear, to the nearest (even).

    Args:
        levels: integers in 0..65535, any shape.
        limits: (low, high) of `config.data.range`; levels outside are clipped.

    Returns:
        uint8 of that shape, and the conversions of `jssl.data.decode.KINDS` that were made.

    Example:
        >>> scaled(np.array([0, 1000, 2000, 5000], np.uint16), (1000, 3000))
        (array([  0,   0, 128, 255], dtype=uint8), ['range', 'clipped'])
    """
    low, high = limits
    table = (np.arange(LARGEST + 1) - low) * 255 / (high - low)
    outside = levels.size and (levels.min() < low or levels.max() > high)
    values = np.rint(np.clip(table, 0, 255)).astype(np.uint8)[levels]
    return values, ["range", *(["clipped"] if outside else [])]


def check_range(limits: Range, bits: int) -> None:
    """Raises UserError for a wrong `data.range`, or one together with `data.bits`."""
    if not limits:
        return
    whole = len(limits) == 2 and all(isinstance(v, int | float) for v in limits)
    if not whole or not 0 <= limits[0] < limits[1] <= LARGEST:
        raise UserError(
            f"Found data.range={tuple(limits)}: expected two levels of 16 bits, the lower one "
            "first. Type for example --config.data.range='(0, 4095)'."
        )
    if bits:
        raise UserError(
            f"Found data.range={tuple(limits)} and data.bits={bits}: both say how levels of 16 "
            "bits become 8, expected one. Leave out data.bits, or data.range."
        )


def need_range(name: str) -> NoReturn:
    """Refuses levels of 16 bits in an array, of which no range is declared."""
    raise UserError(
        f"{name} has levels of 16 bits (uint16), whose range is not known: expected the levels "
        "that become 0 and 255. Type --config.data.range='(LOW, HIGH)', such as '(0, 65535)'."
    )


def other_channels(shape: tuple[int, ...], channels: int, config: bool = True) -> str:
    """Says that a picture [H,W,C] has another number of channels, and what to do.

    Args:
        shape: of the picture.
        channels: number that is expected.
        config: whether the number is a key of a config that may be changed.

    Example:
        >>> other_channels((4, 6, 2), 3)
        'has 2 channels, expected 3 (data.channels): type --config.data.channels=2'
        >>> other_channels((3, 4, 6), 3)
        'has the shape [3,4,6], expected 3 channels, last: pass np.moveaxis(x, 0, -1)'
    """
    if len(shape) == 3 and shape[0] == channels:
        listed = ",".join(map(str, shape))
        return (
            f"has the shape [{listed}], expected {channels} channel{'s' * (channels > 1)}, last: "
            "pass np.moveaxis(x, 0, -1)"
        )
    if not config:
        return f"has {shape[-1]} channels, expected {channels}"
    return (
        f"has {shape[-1]} channels, expected {channels} (data.channels): type "
        f"--config.data.channels={shape[-1]}"
    )


def channels_in_words(section: Any) -> str:
    """Says which channels the pictures of a `data` section have, and how 16 bits become 8.

    Example:
        >>> channels_in_words({'channels': 5, 'range': (0, 4095)})
        '5 channels, levels of 16 bits from 0..4095 to 0..255'
    """
    number = section.get("channels", 3)  # older workdirs lack the key
    known = {3: "channels RGB", 1: "one channel, grey (luma of ITU-R BT.601)"}
    text = known.get(number, f"{number} channels")
    if limits := section.get("range", ()):
        text += f", levels of 16 bits from {limits[0]:g}..{limits[1]:g} to 0..255"
    return text
