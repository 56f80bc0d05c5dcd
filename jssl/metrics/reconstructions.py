"""Reconstructions of an autoencoder: a baseline for its error, and pictures."""

import numpy as np


def constant_patch_error(images: np.ndarray, *, patch: int) -> float:
    """Computes the mean squared error if every patch is replaced by its mean colour.

    Args:
        images: float [M,H,W,3].
        patch: side in pixels, which divides H and W.

    Example:
        >>> image = np.array([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)
        >>> constant_patch_error(image, patch=2), constant_patch_error(image, patch=1)
        (0.25, 0.0)
    """
    M, H, W, C = images.shape
    x = images.reshape(M, H // patch, patch, W // patch, patch, C)
    return float(np.mean((x - x.mean(axis=(2, 4), keepdims=True)) ** 2))


def picture_grid(above: np.ndarray, below: np.ndarray, *, columns: int = 8) -> np.ndarray:
    """Arranges images in rows, each followed by a row of the second images.

    Args:
        above, below: float [M,H,W,3] in [0, 1].
        columns: images per row; an incomplete last row is left out.

    Returns:
        uint8 [2 r H, columns W, 3].

    Example:
        >>> picture_grid(np.zeros((4, 2, 2, 3)), np.ones((4, 2, 2, 3)), columns=2)[:, 0, 0]
        array([  0,   0, 255, 255,   0,   0, 255, 255], dtype=uint8)
    """
    columns = min(columns, len(above))
    rows = len(above) // columns
    both = np.stack([x[: rows * columns] for x in (above, below)])
    _, _, H, W, C = both.shape
    x = both.reshape(2, rows, columns, H, W, C).transpose(1, 0, 3, 2, 4, 5)
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8).reshape(2 * rows * H, columns * W, C)
