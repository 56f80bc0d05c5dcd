"""COCO's average precision: recorded values of pycocotools, and cases worked out by hand."""

import importlib.util

import numpy as np
import pytest

from jssl.errors import UserError
from jssl.metrics.coco import MAX_DETECTIONS, coco_average_precision
from jssl.metrics.detection import Detections, Objects


def objects(boxes, difficult=None, classes=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    classes = np.zeros(len(boxes), int) if classes is None else np.array(classes)
    return Objects(boxes, classes, np.array(difficult or [False] * len(boxes)))


def detections(rows, classes=None):
    rows = np.array(rows, np.float64).reshape(-1, 5)
    classes = np.zeros(len(rows), int) if classes is None else np.array(classes)
    return Detections(rows[:, 1:], rows[:, 0], classes)


def numbers(found):
    return found.ap, found.ap50, found.ap75


def test_the_numbers_of_pycocotools_called_by_hand(capsys):
    truth = [objects([[10, 10, 50, 50], [60, 60, 100, 100]]), objects([[20, 20, 80, 70]])]
    found = [
        detections([[0.9, 12, 11, 52, 50], [0.8, 61, 58, 99, 104], [0.7, 10, 10, 48, 52]]),
        detections([[0.6, 22, 30, 80, 75], [0.95, 0, 0, 15, 15]]),
    ]
    result = coco_average_precision(found, truth, num_classes=1)
    np.testing.assert_allclose(numbers(result), (0.43581, 0.64422, 0.44224), atol=5e-6)
    assert result.each.shape == (10, 1) and capsys.readouterr() == ("", "")


def test_without_detections_it_is_zero_and_without_objects_not_a_number():
    truth = [objects([[0, 0, 9, 9]]), objects([])]
    result = coco_average_precision([detections([])] * 2, truth, num_classes=2)
    assert numbers(result) == (0, 0, 0)
    np.testing.assert_array_equal(result.each, np.repeat([[0, np.nan]], 10, axis=0))
    for found, truth in (([], []), ([detections([[0.9, 0, 0, 5, 5]])], [objects([])])):
        result = coco_average_precision(found, truth, num_classes=1)
        assert np.all(np.isnan(numbers(result))) and np.all(np.isnan(result.each))


def test_a_class_without_objects_is_in_no_mean_whatever_is_detected():
    truth = [objects([[0, 0, 10, 10], [20, 20, 40, 40]], classes=[0, 2])]
    rows = [[0.9, 0, 0, 10, 10], [0.8, 20, 20, 40, 40], [0.7, 60, 60, 90, 90]]
    result = coco_average_precision([detections(rows, [0, 1, 1])], truth, num_classes=3)
    np.testing.assert_allclose(result.each[0], [1, np.nan, 0], atol=1e-12)
    np.testing.assert_allclose(numbers(result), 0.5, atol=1e-12)


def test_a_false_positive_in_a_picture_without_objects_counts():
    truth, right = [objects([]), objects([[0, 0, 10, 10]])], detections([[0.8, 0, 0, 10, 10]])
    result = coco_average_precision([detections([[0.9, 0, 0, 5, 5]]), right], truth, num_classes=1)
    np.testing.assert_allclose(numbers(result), 0.5, atol=1e-12)


def test_difficult_objects_count_neither_way():
    truth = [objects([[10, 10, 50, 50], [60, 60, 100, 100]], [False, True])]
    right = [0.5, 10, 10, 50, 50]
    # On the crowd twice, then a small detection within it: none is wrong.
    crowd = [[0.9, 60, 60, 100, 100], [0.8, 61, 61, 99, 99], [0.7, 70, 70, 75, 75]]
    for rows in ([right], [*crowd, right]):
        result = coco_average_precision([detections(rows)], truth, num_classes=1)
        np.testing.assert_allclose(numbers(result), 1, atol=1e-12)
    only = coco_average_precision([detections([right])], [objects([[0, 0, 9, 9]], [True])],
                                  num_classes=1)  # fmt: skip
    assert np.isnan(only.ap)


def test_an_overlap_of_exactly_the_threshold_is_enough():
    """Not so in VOC's definitions."""
    result = coco_average_precision(
        [detections([[0.9, 0, 0, 10, 5]])], [objects([[0, 0, 10, 10]])], num_classes=1
    )
    np.testing.assert_allclose(result.each[:, 0], [1] + [0] * 9, atol=1e-12)


def test_the_best_hundred_of_a_class_count_in_a_picture():
    right = [0.1, 0, 0, 10, 10]
    for others, expected in ((MAX_DETECTIONS - 1, 0.01), (MAX_DETECTIONS, 0.0)):
        rows = [[0.9, 20, 20, 30, 30]] * others + [right]
        result = coco_average_precision(
            [detections(rows)], [objects([[0, 0, 10, 10]])], num_classes=1
        )
        np.testing.assert_allclose(numbers(result), expected, atol=1e-12)


def test_an_empty_detection_is_a_false_positive():
    rows = [[0.9, 30, 30, 20, 40], [0.8, 0, 0, 10, 10]]
    result = coco_average_precision([detections(rows)], [objects([[0, 0, 10, 10]])], num_classes=1)
    np.testing.assert_allclose(result.ap, 0.5, atol=1e-12)


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="of 1 pictures, found 0"):
        coco_average_precision([], [objects([])], num_classes=1)
    with pytest.raises(ValueError, match="finite numbers, found score"):
        coco_average_precision([detections([[np.nan, 0, 0, 9, 9]])], [objects([])], num_classes=1)


def test_without_pycocotools_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Type pip install 'jssl\[coco\]'\.$"):
        coco_average_precision([], [], num_classes=1)
