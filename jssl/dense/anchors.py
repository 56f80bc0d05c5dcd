"""Anchors: the boxes of fixed sizes and shapes at every cell of a map."""

import jax.numpy as jnp
import numpy as np

from jssl.types import Array

SIZES = (32, 64, 128, 256, 512)  # of one map of stride 16
RATIOS = (0.5, 1.0, 2.0)  # height / width


def cell_anchors(
    sizes: tuple[float, ...] = SIZES,
    ratios: tuple[float, ...] = RATIOS,
    *,
    style: str = "detectron2",
) -> np.ndarray:
    """Returns the anchors of the cell at (0, 0).

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: height / width.
        style: 'detectron2' (sizes outside, ratios inside) or 'torchvision' (ratios outside, and
            corners rounded to whole pixels).

    Returns:
        float32 [A,4], A = len(sizes) len(ratios).

    Example:
        >>> print(cell_anchors((32,)).round(2)[0])
        [-22.63 -11.31  22.63  11.31]
        >>> print(cell_anchors((32, 64), style='torchvision')[:2])
        [[-23. -11.  23.  11.]
         [-45. -23.  45.  23.]]

    Reference: https://github.com/facebookresearch/detectron2, modeling/anchor_generator.py;
        https://github.com/pytorch/vision, torchvision/models/detection/anchor_utils.py.
    """
    if style not in ("detectron2", "torchvision"):
        raise ValueError(f"cell_anchors expects style detectron2 or torchvision, found '{style}'.")
    size, ratio = (x.ravel() for x in np.meshgrid(sizes, ratios, indexing="ij"))
    if style == "torchvision":
        size, ratio = (x.reshape(len(sizes), -1).T.ravel() for x in (size, ratio))
    height, width = size * np.sqrt(ratio), size / np.sqrt(ratio)
    boxes = np.stack([-width, -height, width, height], axis=1) / 2
    return (np.round(boxes) if style == "torchvision" else boxes).astype(np.float32)


def grid_anchors(height: int, width: int, stride: int, cell: np.ndarray) -> Array:
    """Places the anchors of a cell at every cell of a map.

    Args:
        height, width: of the map, in cells.
        stride: pixels between cells; the centre of cell (0, 0) is pixel (0, 0).
        cell: [A,4], from `cell_anchors`.

    Returns:
        float32 [height width A,4]: row by row, the anchors of a cell together.

    Example:
        >>> grid_anchors(50, 76, 16, cell_anchors()).shape
        (57000, 4)
        >>> print(grid_anchors(1, 2, 16, cell_anchors((32,), (1.0,))))
        [[-16. -16.  16.  16.]
         [  0. -16.  32.  16.]]
    """
    y, x = (stride * a for a in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return jnp.asarray((shifts + cell).reshape(-1, 4), jnp.float32)
