"""Average precision of detections as on PASCAL VOC, and mean IoU of segmentations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jssl.metrics.average_precision import average_precision

IGNORED = 255  # the label of VOC's borders
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


class Objects(NamedTuple):
    """The objects of a picture: boxes [n,4] in pixels from 0, classes int [n], difficult bool [n].

    In VOC's files pixels are counted from 1, and the last one belongs to the box: x1 and y1 are
    one less here, x2 and y2 the same.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


class Detections(NamedTuple):
    """The detections in a picture: boxes [n,4] as in `Objects`, scores [n], classes int [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def detection_average_precision(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    *,
    num_classes: int,
    definition: str = "voc2007",
    thresholds: Sequence[float] = THRESHOLDS,
) -> np.ndarray:
    """Computes the average precision of each class at each threshold of overlap.

    A detection is right if the object of its class that it overlaps most is overlapped by MORE
    than the threshold, and no detection of a higher score has it already. A difficult object
    counts neither as found nor as missed. Scores are rounded to 3 decimals and boxes to 1, and
    sides have one pixel more, as detectron2 writes and reads VOC's files. MoCo's AP, AP50 and
    AP75 are means of this with 'voc2007': eleven points, not COCO's 101.

    Args:
        detections: of each picture.
        objects: of each picture, in the same order.
        num_classes: K.
        definition: voc2007 (11 points) or voc2010 (area), see `average_precision`.
        thresholds: T overlaps.

    Returns:
        float64 [T,K] in [0, 1]; NaN for a class without an object that counts.

    Raises:
        ValueError: not as many pictures in both, or an unknown definition.

    Example:
        >>> truth = [Objects(np.array([[10.0, 10, 50, 50]]), np.zeros(1, int), np.zeros(1, bool))]
        >>> boxes = np.array([[12.0, 11, 52, 50], [80.0, 80, 90, 90]])
        >>> detected = [Detections(boxes, np.array([0.9, 0.8]), np.zeros(2, int))]
        >>> detection_average_precision(detected, truth, num_classes=1, thresholds=(0.5, 0.95))
        array([[1.],
               [0.]])

    Reference: Everingham et al., IJCV 2010, section 4.2;
        https://github.com/facebookresearch/detectron2, evaluation/pascal_voc_evaluation.py.
    """
    if len(detections) != len(objects):
        raise ValueError(
            f"detection_average_precision expects detections of {len(objects)} pictures, found "
            f"{len(detections)}."
        )
    result = np.full((len(thresholds), num_classes), np.nan)
    for k in range(num_classes):
        rows, total = class_matches(detections, objects, k)
        for t, threshold in enumerate(thresholds):
            scores, right, ignored = judge_matches(rows, threshold)
            result[t, k] = average_precision(
                scores, right, ignored, definition=definition, num_positive=total
            )
    return result


class Match(NamedTuple):
    """A detection: its score, its picture, the object that it overlaps most and how much."""

    score: float
    picture: int
    object: int
    overlap: float
    difficult: bool


def class_matches(
    detections: Sequence[Detections], objects: Sequence[Objects], k: int
) -> tuple[list[Match], int]:
    """The detections of a class by falling score, and the number of its objects that count."""
    rows, total = [], 0
    for picture, (detected, truth) in enumerate(zip(detections, objects, strict=True)):
        own = np.asarray(truth.classes) == k
        boxes = np.asarray(truth.boxes, np.float64).reshape(-1, 4)[own]
        difficult = np.asarray(truth.difficult, bool)[own]
        total += int(np.sum(~difficult))
        chosen = np.asarray(detected.classes) == k
        scores = np.round(np.asarray(detected.scores, np.float64)[chosen], 3)
        candidates = np.asarray(detected.boxes, np.float64).reshape(-1, 4)[chosen]
        candidates = np.round(candidates + _FIRST, 1)
        overlaps = _overlap(candidates, boxes + _FIRST)
        for score, row in zip(scores, overlaps, strict=True):
            best = int(np.argmax(row)) if len(row) else -1
            overlap = float(row[best]) if len(row) else 0.0
            is_difficult = bool(len(row) and difficult[best])
            rows.append(Match(float(score), picture, best, overlap, is_difficult))
    return sorted(rows, key=lambda row: -row.score), total


_FIRST = np.array([1.0, 1.0, 0.0, 0.0])  # VOC's first pixel is 1


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [N,M] of boxes whose last pixel belongs to them."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low + 1, 0), axis=-1)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2] + 1, axis=1) for x in (a, b))
    return both / (area_a[:, None] + area_b[None] - both)


def judge_matches(rows: list[Match], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, which detections are right, and which are left out."""
    taken: set[tuple[int, int]] = set()
    right, ignored = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        if row.overlap > threshold:
            place = row.picture, row.object
            ignored[i] = row.difficult
            right[i] = not row.difficult and place not in taken
            taken.add(place)
    return np.array([row.score for row in rows]), right, ignored


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts pixels by true and predicted class; add the counts of all pictures.

    Args:
        labels: int [...], `IGNORED` where a pixel does not count.
        predictions: int [...] in [0, num_classes).
        num_classes: K, the background among them.

    Returns:
        int64 [K,K]: rows are true classes.

    Raises:
        ValueError: other shapes, or a label that is no class.

    Example:
        >>> confusion(np.array([0, 1, 255]), np.array([0, 0, 1]), 2)
        array([[1, 0],
               [1, 0]])
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    counted = labels != IGNORED
    if labels.shape != predictions.shape:
        raise ValueError(f"confusion expects one shape, found {labels.shape}, {predictions.shape}.")
    t, p = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
    both = np.concatenate([t, p])
    wrong = both[(both < 0) | (both >= num_classes)]
    if len(wrong):
        raise ValueError(f"confusion expects classes below {num_classes}, found {wrong[0]}.")
    return np.bincount(t * num_classes + p, minlength=num_classes**2).reshape(num_classes, -1)


def mean_iou(counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Computes the mean over classes of intersection over union.

    Args:
        counts: [K,K] of a whole data set, from `confusion`.

    Returns:
        The mean over classes that occur in the labels or the predictions, and float64 [K], NaN for
        the others.

    Example:
        >>> labels = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [1, 1, 2, 2]])
        >>> predictions = np.array([[0, 1, 1, 1], [0, 2, 1, 1], [1, 0, 2, 2]])
        >>> mean, each = mean_iou(confusion(labels, predictions, 4))
        >>> print(round(mean, 6), each)
        0.583333 [0.5  0.5  0.75  nan]

    Reference: Everingham et al., IJCV 2015, section 3.4; Long et al., CVPR 2015,
        https://arxiv.org/abs/1411.4038.
    """
    both = np.diag(counts).astype(np.float64)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    each = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
    return float(np.nanmean(each)), each
