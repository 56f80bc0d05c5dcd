"""Boxes: areas, overlaps, clipping, and the coding of one box relative to another.

A box is (x1, y1, x2, y2) in pixels, [...,4]; its width is x2 - x1. Everything here is computed in
float32, whatever the dtype of a network: bfloat16 has 8 bits, and a picture more pixels than that.
"""

import math

import jax.numpy as jnp

from jssl.types import Array

MAX_LOG_SCALE = math.log(1000 / 16)  # of a box relative to another, before it is exponentiated
UNIT = (1.0, 1.0, 1.0, 1.0)
HEAD = (10.0, 10.0, 5.0, 5.0)  # weights of a detection head's deltas


def box_area(boxes: Array) -> Array:
    """Computes the areas of boxes; an empty box has area 0.

    Args:
        boxes: [...,4] float.

    Returns:
        float32 [...], in square pixels.

    Example:
        >>> print(box_area(jnp.array([[0.0, 0.0, 4.0, 2.0], [3.0, 3.0, 1.0, 5.0]])))
        [8. 0.]
    """
    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return jnp.maximum(x2 - x1, 0) * jnp.maximum(y2 - y1, 0)


def box_iou(a: Array, b: Array) -> Array:
    """Computes the intersection over union of every pair of boxes.

    Args:
        a: [N,4] float.
        b: [M,4] float.

    Returns:
        float32 [N,M] in [0, 1]; 0 where both boxes are empty.

    Example:
        >>> a = jnp.array([[0.0, 0.0, 10.0, 10.0]])
        >>> print(box_iou(a, jnp.array([[0.0, 0.0, 10.0, 5.0], [20.0, 20.0, 30.0, 30.0]])))
        [[0.5 0. ]]
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    both = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    either = box_area(a)[:, None] + box_area(b)[None, :] - both
    return jnp.where(either > 0, both / jnp.where(either > 0, either, 1), 0)


def clip_boxes(boxes: Array, height: Array | float, width: Array | float) -> Array:
    """Clips boxes to a picture.

    Args:
        boxes: [...,4] float.
        height, width: of the picture, in pixels; scalars.

    Returns:
        float32 [...,4].

    Example:
        >>> print(clip_boxes(jnp.array([[-3.0, 2.0, 50.0, 8.0]]), 6, 20))
        [[ 0.  2. 20.  6.]]
    """
    high = jnp.stack([jnp.asarray(side, jnp.float32) for side in (width, height, width, height)])
    return jnp.clip(boxes.astype(jnp.float32), 0.0, jnp.broadcast_to(high, boxes.shape))


def _centres(boxes: Array) -> tuple[Array, Array]:
    """Centres and sizes of boxes, each [...,2]."""
    boxes = boxes.astype(jnp.float32)
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def _like(weights: tuple[float, float, float, float], boxes: Array) -> Array:
    return jnp.broadcast_to(jnp.array(weights, jnp.float32), boxes.shape)


def encode_boxes(
    reference: Array, boxes: Array, weights: tuple[float, float, float, float] = UNIT
) -> Array:
    """Computes the deltas that move and scale reference boxes to others.

        d = w ((x - x_r) / w_r, (y - y_r) / h_r, ln(w / w_r), ln(h / h_r)),  x, y of centres

    Args:
        reference: [...,4] float, of positive width and height.
        boxes: [...,4] float, likewise.
        weights: of the four numbers.

    Returns:
        float32 [...,4].

    Example:
        >>> import numpy as np
        >>> a, b = jnp.array([10.0, 20.0, 50.0, 80.0]), jnp.array([15.0, 25.0, 70.0, 90.0])
        >>> print(np.asarray(encode_boxes(a, b)).round(4))
        [0.3125 0.125  0.3185 0.08  ]

    Reference: Girshick et al., CVPR 2014, https://arxiv.org/abs/1311.2524, appendix C; weights of
        https://github.com/facebookresearch/detectron2, detectron2/modeling/box_regression.py.
    """
    centre, size = _centres(reference)
    other_centre, other_size = _centres(boxes)
    deltas = [(other_centre - centre) / size, jnp.log(other_size / size)]
    return jnp.concatenate(deltas, axis=-1) * _like(weights, boxes)


def decode_boxes(
    reference: Array, deltas: Array, weights: tuple[float, float, float, float] = UNIT
) -> Array:
    """Inverts `encode_boxes`; a box grows at most 62.5 times in width or height.

    Args:
        reference: [...,4] float.
        deltas: [...,4] float.
        weights: as in `encode_boxes`.

    Returns:
        float32 [...,4], not clipped.

    Example:
        >>> import numpy as np
        >>> a, b = jnp.array([10.0, 20.0, 50.0, 80.0]), jnp.array([15.0, 25.0, 70.0, 90.0])
        >>> print(np.asarray(decode_boxes(a, encode_boxes(a, b, HEAD), HEAD)).round(3))
        [15. 25. 70. 90.]
        >>> print(np.asarray(decode_boxes(a, jnp.array([0.0, 0.0, 9.0, 9.0]))).round(1))
        [-1220. -1825.  1280.  1925.]

    Reference: as `encode_boxes`.
    """
    centre, size = _centres(reference)
    deltas = deltas.astype(jnp.float32) / _like(weights, deltas)
    centre = centre + deltas[..., :2] * size
    size = size * jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE))
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)
