"""A detection head's sampled regions, losses and detections, of one picture; vmap for a batch.

Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083, with the numbers of
https://github.com/facebookresearch/detectron2, modeling/roi_heads. The background is the last
class.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.dense.boxes import HEAD, box_iou, clip_boxes, decode_boxes, encode_boxes
from jssl.dense.losses import box_loss, head_loss
from jssl.dense.matcher import IGNORED, match, sample
from jssl.dense.nms import class_nms
from jssl.types import Array


class Regions(NamedTuple):
    """Sampled regions of a picture.

    Attributes:
        boxes: float32 [S,4].
        labels: int32 [S] in [0, K]; K for the background and for padding.
        targets: float32 [S,4], deltas with the weights `HEAD`; 0 for the background.
        valid: bool [S], False for padding.
    """

    boxes: Array
    labels: Array
    targets: Array
    valid: Array


class Detected(NamedTuple):
    """Detections of a picture, in the order of falling scores.

    Attributes:
        boxes: float32 [D,4], inside the picture.
        scores: float32 [D] in [0, 1]; 0 for padding.
        classes: int32 [D] in [0, K).
        valid: bool [D], False for padding.
    """

    boxes: Array
    scores: Array
    classes: Array
    valid: Array


def sample_regions(
    key: Array,
    proposals: Array,
    live: Array,
    boxes: Array,
    labels: Array,
    valid: Array,
    *,
    num_classes: int,
    count: int = 512,
    positives: int = 128,
    iou: float = 0.5,
    low: float = 0.0,
) -> Regions:
    """Samples regions for the losses of a head: from the proposals and the objects themselves.

    Args:
        key: typed PRNG key [].
        proposals: [R,4] float.
        live: bool [R], which proposals are not padding.
        boxes: [M,4] float, of the objects.
        labels: int32 [M] in [0, K).
        valid: bool [M], which objects are not padding.
        num_classes: K.
        count: regions, S.
        positives: largest number of regions that overlap an object.
        iou: the overlap from which a region is positive.
        low: the overlap from which it is of the background; below, it is left out (Fast R-CNN).

    Returns:
        `Regions`, without a gradient.

    Example:
        >>> proposals = jnp.array([[0.0, 0, 10, 10], [40, 40, 50, 50]])
        >>> boxes = jnp.array([[0.0, 0, 10, 12], [0, 0, 0, 0]])
        >>> regions = sample_regions(jax.random.key(0), proposals, jnp.ones(2, bool), boxes,
        ...                          jnp.array([3, 0]), jnp.array([True, False]), num_classes=20,
        ...                          count=4, positives=2)
        >>> print(regions.labels, regions.valid)
        [ 3  3 20 20] [ True  True  True False]
    """
    rows = jnp.concatenate([proposals.astype(jnp.float32), boxes.astype(jnp.float32)])
    rows = jax.lax.stop_gradient(rows)
    live = jnp.concatenate([live, valid])
    overlaps = jnp.where(valid[:, None], box_iou(boxes, rows), 0.0)
    matches = match(overlaps, valid, low=iou, high=iou)
    matches = jnp.where(live & (jnp.max(overlaps, axis=0) >= low), matches, IGNORED)
    indices, is_positive, weight = sample(key, matches, count=count, positives=positives)
    # Rows of the sample first: there are `count` at most.
    weight, order = jax.lax.top_k(weight, min(count, len(weight)))
    order = jnp.pad(order, (0, count - len(order)))
    chosen = jnp.pad(weight, (0, count - len(weight))) > 0
    indices, positive = indices[order], is_positive[order] & chosen
    own = jnp.maximum(matches[indices], 0)
    reference = jnp.where(chosen[:, None], rows[indices], 0.0)
    unit = jnp.array([0.0, 0.0, 1.0, 1.0])  # the logarithm of its size is finite
    targets = encode_boxes(
        jnp.where(positive[:, None], reference, unit),
        jnp.where(positive[:, None], boxes[own], unit),
        HEAD,
    )
    return Regions(reference, jnp.where(positive, labels[own], num_classes), targets, chosen)


def region_losses(
    logits: Array, deltas: Array, regions: Regions, *, beta: float = 0.0
) -> tuple[Array, Array]:
    """Computes the SUMMED losses of a head over its sampled regions.

    Args:
        logits: [S,K+1] float, the background last.
        deltas: [S,K,4] float, of each class.
        regions: from `sample_regions`.
        beta: of `box_loss`.

    Returns:
        The cross entropy, and the L1 loss of the deltas of the regions' own classes, float32 [];
        the caller divides both by the number of sampled regions, of the background too.

    Example:
        >>> regions = Regions(jnp.zeros((2, 4)), jnp.array([0, 1]), jnp.ones((2, 4)),
        ...                   jnp.array([True, True]))
        >>> losses = region_losses(jnp.zeros((2, 2)), jnp.zeros((2, 1, 4)), regions)
        >>> print(*(x.round(4) for x in losses))
        1.3863 4.0
    """
    weight = regions.valid.astype(jnp.float32)
    classification = head_loss(logits, regions.labels, weight) * jnp.sum(weight)
    classes = deltas.shape[1]
    own = jnp.minimum(regions.labels, classes - 1)[:, None, None]
    chosen = jnp.take_along_axis(deltas, own, axis=1)[:, 0]
    weight = weight * (regions.labels < classes)
    return classification, box_loss(chosen, regions.targets, weight, beta=beta)


def detections(
    logits: Array,
    deltas: Array,
    proposals: Array,
    live: Array,
    size: Array,
    *,
    min_score: float = 0.05,
    iou: float = 0.5,
    count: int = 100,
) -> Detected:
    """Selects the detections of a picture.

    Args:
        logits: [R,K+1] float, the background last.
        deltas: [R,K,4] float, of each class.
        proposals: [R,4] float.
        live: bool [R], which proposals are not padding.
        size: int32 [2], height and width of the picture, in pixels.
        min_score: detections have a higher probability.
        iou: the threshold of the suppression within each class.
        count: detections, D.

    Example:
        >>> logits = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
        >>> box = jnp.array([[0.0, 0, 10, 10], [5, 5, 9, 9]])
        >>> detected = detections(logits, jnp.zeros((2, 2, 4)), box, jnp.ones(2, bool),
        ...                       jnp.array([8, 20]), count=2)
        >>> print(detected.boxes[0], detected.classes[0], detected.valid)
        [ 0.  0. 10.  8.] 0 [ True False]
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, :-1]
    scores = jnp.where(live[:, None], scores, -jnp.inf)
    boxes = decode_boxes(jnp.broadcast_to(proposals[:, None], deltas.shape), deltas, HEAD)
    boxes = clip_boxes(boxes, size[0], size[1])
    boxes, scores, classes, _ = class_nms(boxes, scores, iou=iou, min_score=min_score, count=count)
    valid = scores > -jnp.inf
    boxes = jnp.where(valid[:, None], boxes, 0.0)
    return Detected(boxes, jnp.where(valid, scores, 0.0), jnp.where(valid, classes, 0), valid)
