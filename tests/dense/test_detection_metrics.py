"""VOC's average precision of detections and mean IoU; values of detectron2's and VOC's code."""

import numpy as np
import pytest

from jssl.metrics.detection import (
    Detections,
    Objects,
    confusion,
    detection_average_precision,
    mean_iou,
)


def objects(boxes, difficult=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Objects(boxes, np.zeros(len(boxes), int), np.array(difficult or [False] * len(boxes)))


def detections(rows):
    rows = np.array(rows, np.float64).reshape(-1, 5)
    return Detections(rows[:, 1:], rows[:, 0], np.zeros(len(rows), int))


TRUTH = [objects([[10, 10, 50, 50], [60, 60, 100, 100]]), objects([[20, 20, 80, 70]])]
FOUND = [
    detections([[0.9, 12, 11, 52, 50], [0.8, 61, 58, 99, 104], [0.7, 10, 10, 48, 52]]),
    detections([[0.6, 22, 30, 80, 75], [0.95, 0, 0, 15, 15]]),
]


@pytest.mark.parametrize(
    ("definition", "expected"),
    [("voc2007", (0.43333, 0.64242, 0.42424)), ("voc2010", (0.43611, 0.64444, 0.44444))],
)
def test_the_numbers_of_vocs_code(definition, expected):
    ap = detection_average_precision(FOUND, TRUTH, num_classes=1, definition=definition)[:, 0]
    np.testing.assert_allclose((ap.mean(), ap[0], ap[5]), expected, atol=5e-6)


def test_the_objects_themselves_give_one():
    rng = np.random.default_rng(0)
    truth, found = [], []
    for count in (3, 0, 5):
        corner = rng.integers(0, 100, (count, 2)) + 200 * np.arange(count)[:, None]
        boxes = np.concatenate([corner, corner + rng.integers(5, 60, (count, 2))], 1)
        classes = rng.integers(0, 2, count)
        truth.append(Objects(boxes, classes, np.zeros(count, bool)))
        found.append(Detections(boxes, rng.random(count), classes))
    ap = detection_average_precision(found, truth, num_classes=3)
    np.testing.assert_allclose(ap[:, :2], 1)
    assert np.all(np.isnan(ap[:, 2]))  # no object of it


def test_difficult_objects_count_neither_way():
    truth = [objects([[10, 10, 50, 50], [60, 60, 100, 100]], [False, True])]
    right = detections([[0.9, 10, 10, 50, 50]])
    also = detections([[0.95, 60, 60, 100, 100], [0.9, 10, 10, 50, 50]])
    for found in (right, also):
        ap = detection_average_precision([found], truth, num_classes=1, thresholds=(0.5,))
        assert ap[0, 0] == 1


def test_a_second_detection_of_an_object_is_wrong():
    truth = [objects([[10, 10, 50, 50], [200, 200, 240, 240]])]
    found = detections([[0.9, 10, 10, 50, 50], [0.8, 10, 10, 50, 51], [0.7, 200, 200, 240, 240]])
    ap = detection_average_precision([found], truth, num_classes=1, definition="voc2010",
                                     thresholds=(0.5,))  # fmt: skip
    np.testing.assert_allclose(ap[0, 0], 0.5 + 0.5 * 2 / 3)


def test_an_overlap_of_exactly_the_threshold_is_too_little():
    truth, found = [objects([[0, 0, 10, 10]])], [detections([[0.9, 0, 0, 10, 5]])]
    ap = detection_average_precision(found, truth, num_classes=1, thresholds=(0.5, 0.4999))
    np.testing.assert_array_equal(ap[:, 0], [0, 1])


def test_without_detections_the_precision_is_zero():
    ap = detection_average_precision([detections([])], [objects([[0, 0, 9, 9]])], num_classes=1)
    np.testing.assert_array_equal(ap, 0)
    with pytest.raises(ValueError, match="of 1 pictures, found 0"):
        detection_average_precision([], [objects([])], num_classes=1)


def test_mean_iou_of_a_whole_set_is_not_the_mean_of_its_pictures():
    pictures = [
        (np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0]])),
        (np.array([[0, 255], [0, 0]]), np.array([[1, 1], [0, 0]])),
    ]
    counts = sum(confusion(t, p, 2) for t, p in pictures)
    mean, each = mean_iou(counts)
    np.testing.assert_allclose(each, [4 / 6, 1 / 3])
    assert np.isclose(mean, 0.5)
    assert counts.sum() == 7


@pytest.mark.parametrize(
    ("labels", "predictions", "match"),
    [
        ([0, 3], [0, 0], "classes below 3, found 3"),
        ([0, 1], [0, -1], "found -1"),
        ([0], [0, 0], "one shape"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, predictions, match):
    with pytest.raises(ValueError, match=match):
        confusion(np.array(labels), np.array(predictions), 3)
