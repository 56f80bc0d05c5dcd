"""The colours of VOC's masks."""

import numpy as np


def voc_palette() -> np.ndarray:
    """Computes VOC's colours of the 256 indices of a mask.

    The bits of an index, from the lowest one, go in turn to red, green and blue, where the first
    one that arrives is the highest.

    Returns:
        uint8 [256,3], red, green and blue.

    Example:
        >>> voc_palette()[[0, 1, 2, 15]].tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]

    Reference: Everingham et al., the development kit of VOC 2012, VOClabelcolormap.m.
    """
    index = np.arange(256)[:, None]
    bits = [(index >> (3 * i + np.arange(3)) & 1) << (7 - i) for i in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)
