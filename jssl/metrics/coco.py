"""Average precision of detections as COCO defines it, computed by pycocotools."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jssl.errors import UserError
from jssl.metrics.detection import THRESHOLDS, Detections, Objects

NAME = "COCO AP, 101 points"  # never only "AP": the numbers of VOC's definitions are others
MAX_DETECTIONS = 100  # of a class in a picture that count, the ones of highest score


class CocoAP(NamedTuple):
    """COCO's average precision in [0, 1]; NaN without an object that counts.

    Attributes:
        ap: mean of the ten thresholds .5, .55, ..., .95, and of the classes that have objects.
        ap50: at the threshold .5.
        ap75: at the threshold .75.
        each: float64 [10,K], at each threshold, of each class.
    """

    ap: float
    ap50: float
    ap75: float
    each: np.ndarray


def is_installed() -> bool:
    """Whether pycocotools is installed."""
    return importlib.util.find_spec("pycocotools") is not None


def check_pycocotools() -> None:
    """Raises a UserError if pycocotools is not installed; call it before a long computation."""
    if not is_installed():
        raise UserError("COCO's AP needs pycocotools. Type pip install 'jssl[coco]'.")


def coco_average_precision(
    detections: Sequence[Detections], objects: Sequence[Objects], *, num_classes: int
) -> CocoAP:
    """Computes COCO's average precision: at 101 values of recall, by pycocotools.

    A detection takes the free object of its class that it overlaps most, and is right if the
    overlap is at least the threshold. Nothing is rounded, and a box has width x2 - x1. Of a class
    in a picture the best `MAX_DETECTIONS` count. Objects of all sizes count alike.

    A difficult object is given to pycocotools as a crowd (`iscrowd`), because that is the only
    mark that it does not overwrite (`ignore` is), and because `CocoFolder` reads crowds as
    difficult. It counts neither as found nor as missed, and any number of detections may lie on
    it; its overlap is the part of the DETECTION that lies in it. For this reason, too, the number
    differs from VOC's.

    Args:
        detections: of each picture; scores need no range.
        objects: of each picture, in the same order.
        num_classes: K; other classes are left out.

    Returns:
        `CocoAP`. A class without an object that counts is NaN, and in no mean.

    Raises:
        UserError: pycocotools is not installed.
        ValueError: not as many pictures in both, or a score or box that is not finite.

    Example:
        >>> truth = [Objects(np.array([[10.0, 10, 50, 50]]), np.zeros(1, int), np.zeros(1, bool))]
        >>> boxes = np.array([[12.0, 11, 52, 50], [80.0, 80, 90, 90]])
        >>> detected = [Detections(boxes, np.array([0.9, 0.8]), np.zeros(2, int))]
        >>> found = coco_average_precision(detected, truth, num_classes=1)
        >>> round(found.ap, 6), round(found.ap50, 6), found.each[-1]
        (0.8, 1.0, array([0.]))

    Reference: Lin et al., ECCV 2014, https://arxiv.org/abs/1405.0312;
        https://cocodataset.org/#detection-eval.
    """
    check_pycocotools()
    if len(detections) != len(objects):
        raise ValueError(
            f"coco_average_precision expects detections of {len(objects)} pictures, found "
            f"{len(detections)}."
        )
    truth = [_annotations(o.boxes, o.classes, iscrowd=o.difficult) for o in objects]
    found = [_annotations(d.boxes, d.classes, score=d.scores) for d in detections]
    each = _evaluate(truth, found, num_classes).mean(axis=1)
    each = np.where(each < 0, np.nan, each)  # pycocotools marks a class without objects by -1
    counted = each[:, ~np.isnan(each[0])]
    if not counted.shape[1]:
        return CocoAP(np.nan, np.nan, np.nan, each)
    means = counted.mean(axis=1)
    middle = THRESHOLDS.index(0.75)
    return CocoAP(float(means.mean()), float(means[0]), float(means[middle]), each)


def _annotations(boxes: np.ndarray, classes: np.ndarray, **fields: np.ndarray) -> list[dict]:
    """The annotations of a picture, in COCO's words."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    for name, values in {"boxes": corners, **fields}.items():
        if not np.all(np.isfinite(values)):
            raise ValueError(
                f"coco_average_precision expects finite numbers, found {name} {values}."
            )
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 0)  # an area below 0 would not count
    columns = {
        "bbox": np.concatenate([corners[:, :2], sides], axis=1).tolist(),
        "area": np.prod(sides, axis=1).tolist(),
        "category_id": np.asarray(classes, np.int64).tolist(),
    }
    columns |= {name: np.asarray(values, np.float64).tolist() for name, values in fields.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _evaluate(truth: list[list[dict]], found: list[list[dict]], num_classes: int) -> np.ndarray:
    """Precision of pycocotools, float64 [10,101,K]; -1 for a class without an object."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(_coco(truth, num_classes), _coco(found, num_classes), "bbox")
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0, 0]


def _coco(pictures: list[list[dict]], num_classes: int) -> Any:
    from pycocotools.coco import COCO

    rows = [{**row, "image_id": i} for i, picture in enumerate(pictures) for row in picture]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(pictures))],
        "categories": [{"id": k} for k in range(num_classes)],
        # From 1: pycocotools takes an object with id 0 for none.
        "annotations": [{**row, "id": i} for i, row in enumerate(rows, start=1)],
    }
    coco.createIndex()
    return coco
