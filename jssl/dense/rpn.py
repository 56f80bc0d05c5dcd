"""A region proposal network's targets, losses and proposals, of one picture; vmap for a batch.

Ren et al., NeurIPS 2015, https://arxiv.org/abs/1506.01497, with the numbers of
https://github.com/facebookresearch/detectron2, modeling/proposal_generator.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.dense.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes
from jssl.dense.losses import box_loss, objectness_loss
from jssl.dense.matcher import IGNORED, match
from jssl.dense.nms import nms
from jssl.types import Array


class Proposals(NamedTuple):
    """The proposals of a picture, in the order of falling logits.

    Attributes:
        boxes: float32 [R,4], inside the picture; without a gradient.
        logits: float32 [R]; -inf for padding.
        valid: bool [R], False for padding.
    """

    boxes: Array
    logits: Array
    valid: Array


def live_anchors(height: int, width: int, stride: int, size: Array, anchors_of_cell: int) -> Array:
    """Which anchors belong to a cell of the picture, not of its padding.

    Anchors that reach out of the picture are among them.

    Args:
        height, width: of the map, in cells.
        stride: pixels between cells.
        size: int32 [2], height and width of the picture, in pixels.
        anchors_of_cell: A.

    Returns:
        bool [height width A], in the order of `grid_anchors`.

    Example:
        >>> print(live_anchors(2, 2, 16, jnp.array([32, 16]), 1))
        [ True False  True False]
    """
    y, x = (jnp.arange(n) * stride < size[i] for i, n in enumerate((height, width)))
    return jnp.repeat((y[:, None] & x[None, :]).ravel(), anchors_of_cell)


def match_anchors(
    anchors: Array, live: Array, boxes: Array, valid: Array, *, low: float = 0.3, high: float = 0.7
) -> Array:
    """Matches anchors to objects.

    Args:
        anchors: [N,4] float.
        live: bool [N], from `live_anchors`.
        boxes: [M,4] float, of the objects.
        valid: bool [M], which objects are not padding.
        low, high: overlaps, see `match`.

    Returns:
        int32 [N]: the number of the object, `NEGATIVE` or `IGNORED`; padding is ignored.

    Example:
        >>> anchors = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]])
        >>> live = jnp.array([True, True, False])
        >>> print(match_anchors(anchors, live, anchors[:1], jnp.ones(1, bool)))
        [ 0 -1 -2]
    """
    # An overlap of -1: padding never is the anchor that overlaps an object most.
    iou = jnp.where(live[None], box_iou(boxes, anchors), -1.0)
    matches = match(iou, valid, low=low, high=high, keep_best=True)
    return jnp.where(live, matches, IGNORED)


def rpn_losses(
    logits: Array,
    deltas: Array,
    anchors: Array,
    boxes: Array,
    matches: Array,
    sampled: tuple[Array, Array, Array],
) -> tuple[Array, Array]:
    """Computes the summed losses of the sampled anchors.

    Args:
        logits: [N] float.
        deltas: [N,4] float.
        anchors: [N,4] float.
        boxes: [M,4] float, of the objects.
        matches: int32 [N], from `match_anchors`.
        sampled: from `jssl.dense.sample`: int32 [S], bool [S] and float32 [S].

    Returns:
        The binary cross entropy and the L1 loss of the positives, float32 []; the caller divides
        both by the number of anchors to be sampled, 256 times the pictures.

    Example:
        >>> anchors = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
        >>> sampled = (jnp.array([0, 1]), jnp.array([True, False]), jnp.ones(2))
        >>> boxes = jnp.array([[5.0, 0, 15, 10]])
        >>> losses = rpn_losses(jnp.zeros(2), jnp.zeros((2, 4)), anchors, boxes,
        ...                     jnp.array([0, -1]), sampled)
        >>> print(*(x.round(4) for x in losses))
        1.3863 0.5
    """
    rows, is_positive, weight = sampled
    objectness = objectness_loss(logits[rows], is_positive, weight)
    weight = weight * is_positive
    # A box of padding is empty, and the logarithm of its size not finite.
    reference = anchors[rows]
    goal = jnp.where(weight[:, None] > 0, boxes[jnp.maximum(matches[rows], 0)], reference)
    return objectness, box_loss(deltas[rows], encode_boxes(reference, goal), weight)


def propose(
    logits: Array,
    deltas: Array,
    anchors: Array,
    live: Array,
    size: Array,
    *,
    before: int,
    after: int,
    iou: float = 0.7,
) -> Proposals:
    """Selects proposals: the best anchors, moved, clipped to the picture, and suppressed.

    Args:
        logits: [N] float.
        deltas: [N,4] float.
        anchors: [N,4] float.
        live: bool [N], from `live_anchors`.
        size: int32 [2], height and width of the picture, in pixels.
        before: anchors before the suppression.
        after: proposals, R.
        iou: the threshold of the suppression.

    Example:
        >>> anchors = jnp.array([[-5.0, 0, 10, 10], [20, 0, 30, 10]])
        >>> proposals = propose(jnp.array([1.0, 2.0]), jnp.zeros((2, 4)), anchors,
        ...                     jnp.ones(2, bool), jnp.array([8, 40]), before=2, after=3)
        >>> print(proposals.boxes[:2], proposals.valid)
        [[20.  0. 30.  8.]
         [ 0.  0. 10.  8.]] [ True  True False]
    """
    logits, deltas = jax.lax.stop_gradient((logits.astype(jnp.float32), deltas))
    scores, rows = jax.lax.top_k(jnp.where(live, logits, -jnp.inf), min(before, len(logits)))
    boxes = clip_boxes(decode_boxes(anchors[rows], deltas[rows]), size[0], size[1])
    is_empty = jnp.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    scores = jnp.where(is_empty, -jnp.inf, scores)
    indices, selected = nms(boxes, scores, iou=iou, count=after)
    boxes = jnp.where(selected[:, None], boxes[indices], 0.0)
    return Proposals(boxes, jnp.where(selected, scores[indices], -jnp.inf), selected)
