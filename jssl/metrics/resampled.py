"""95 % intervals of a detector's average precision and of mean IoU: pictures are resampled."""

from collections.abc import Sequence

import numpy as np

from jssl.metrics.average_precision import average_precision
from jssl.metrics.coco import coco_average_precision
from jssl.metrics.detection import (
    THRESHOLDS,
    Detections,
    Objects,
    class_matches,
    judge_matches,
    mean_iou,
)

RESAMPLES = 200
COCO_RESAMPLES = 50  # seconds each on all of VOC
LEVELS = (2.5, 97.5)


def average_precision_intervals(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    *,
    num_classes: int,
    groups: Sequence[Sequence[float]],
    definition: str = "voc2007",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Computes percentile intervals of mean average precisions; pictures are drawn, not detections.

    Args:
        detections, objects: of each picture, see `detection_average_precision`.
        num_classes: K.
        groups: the thresholds of each mean, such as (.5,) of AP50.
        definition: see `average_precision`.
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        (low, high) in [0, 1] of each group; a class without an object in a sample is left out of
        that sample's mean.

    Example:
        >>> one = Objects(np.array([[0.0, 0, 9, 9]]), np.zeros(1, int), np.zeros(1, bool))
        >>> right = Detections(one.boxes, np.ones(1), one.classes)
        >>> average_precision_intervals([right], [one], num_classes=1, groups=[(0.5,)])
        [(1.0, 1.0)]

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    weights = _draws(len(objects), resamples, seed)
    thresholds = sorted({t for group in groups for t in group})
    values = np.full((resamples, len(thresholds), num_classes), np.nan)
    for k in range(num_classes):
        matches, _ = class_matches(detections, objects, k)
        counted = [
            np.sum((np.asarray(o.classes) == k) & ~np.asarray(o.difficult, bool)) for o in objects
        ]
        totals = weights @ np.asarray(counted, np.int64)
        pictures = np.array([match.picture for match in matches], np.int64)
        for t, threshold in enumerate(thresholds):
            scores, right, ignored = judge_matches(matches, threshold)
            kept = ~ignored
            for r, draw in enumerate(weights):
                times = draw[pictures[kept]]
                values[r, t, k] = average_precision(
                    np.repeat(scores[kept], times),
                    np.repeat(right[kept], times),
                    definition=definition,
                    num_positive=int(totals[r]),
                )
    intervals = []
    for group in groups:
        rows = [thresholds.index(t) for t in group]
        means = [_mean(value[rows]) for value in values]
        intervals.append(_interval(means))
    return intervals


def coco_interval(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    *,
    num_classes: int,
    resamples: int = COCO_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Computes the percentile interval of COCO's AP; pictures are drawn, not detections.

    Args:
        detections, objects: of each picture, see `coco_average_precision`.
        num_classes: K.
        resamples: number of bootstrap samples, each an evaluation by pycocotools.
        seed: of the bootstrap.

    Returns:
        (low, high) in [0, 1].

    Raises:
        UserError: pycocotools is not installed.
    """
    values = []
    for draw in _draws(len(objects), resamples, seed):
        rows = np.repeat(np.arange(len(objects)), draw).tolist()
        drawn = ([detections[i] for i in rows], [objects[i] for i in rows])
        values.append(coco_average_precision(*drawn, num_classes=num_classes).ap)
    return _interval(values)


def mean_iou_interval(
    counts: Sequence[np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Computes the percentile interval of the mean IoU; pictures are drawn, not pixels.

    Args:
        counts: [K,K] of each picture, see `jssl.metrics.detection.confusion`.
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        (low, high) in [0, 1].

    Example:
        >>> mean_iou_interval([np.eye(2, dtype=int), np.eye(2, dtype=int)])
        (1.0, 1.0)
    """
    stacked = np.asarray(counts, np.int64)
    draws = _draws(len(stacked), resamples, seed)
    return _interval([mean_iou(np.tensordot(draw, stacked, 1))[0] for draw in draws])


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each picture is drawn in each sample: int64 [resamples,count]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples)


def _mean(values: np.ndarray) -> float:
    """The mean over the classes that have objects."""
    kept = values[:, ~np.isnan(values).all(axis=0)]
    return float(np.mean(kept)) if kept.size else float("nan")


def _interval(values: Sequence[float]) -> tuple[float, float]:
    known = np.asarray(values, np.float64)
    low, high = np.percentile(known[~np.isnan(known)], LEVELS)
    return float(low), float(high)


GROUPS = {"AP50": (0.5,), "AP": THRESHOLDS, "AP75": (0.75,)}
