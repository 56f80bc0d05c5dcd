"""Mean and standard deviation of the channels of a data set."""

from typing import Any

import numpy as np

from jssl.data.subset import evenly_spaced
from jssl.errors import UserError


def mean_and_std(source: Any, examples: int = 1000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation of each channel, for `augment.mean` and `augment.std`.

    They are those of a pixel of a random picture: each picture has the same weight, whatever its
    size, as in training.

    Args:
        source: see `jssl.data.Source`.
        examples: number of pictures that are read, evenly spaced; all if there are fewer.

    Returns:
        Mean and standard deviation, C numbers each, for pixels in [0, 1].

    Raises:
        UserError: no pictures, or a number of examples below 1.

    Example:
        >>> from jssl.data import ArraySource
        >>> images = np.zeros((2, 4, 4, 1), np.uint8)
        >>> images[1] = 255
        >>> mean_and_std(ArraySource('mine', images, [0, 1], num_classes=2))
        ((0.5,), (0.5,))
    """
    if examples < 1 or not len(source):
        raise UserError(
            f"Found examples={examples} of '{source.name}' with {len(source)} pictures: expected "
            "at least one picture."
        )
    rows = evenly_spaced(len(source), min(examples, len(source)))
    total: Any = 0.0
    squares: Any = 0.0
    for row in rows.tolist():
        image = source[row]["image"]
        pixels = image.reshape(-1, image.shape[-1]) / 255.0
        total = total + pixels.mean(axis=0)
        squares = squares + (pixels**2).mean(axis=0)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
    return tuple(mean.tolist()), tuple(std.tolist())
