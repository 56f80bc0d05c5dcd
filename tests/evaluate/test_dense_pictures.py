"""Sheets of detections and of masks: each thing in its colour at its place."""

import numpy as np
import pytest

from jssl.data.palette import voc_palette
from jssl.evaluate import dense_pictures
from jssl.evaluate.dense_pictures import GAP, GREY, LINE, SIDE, detection_sheet, segmentation_sheet
from jssl.metrics.detection import Detections, Objects

TOP = GAP + 2 * LINE + GAP  # of the first row, below a heading and one line of legend
COLOUR = (10, 20, 30)
RED, GREEN = (128, 0, 0), (0, 128, 0)  # VOC's first two
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def picture(height=128, width=128):
    return np.broadcast_to(np.array(COLOUR, np.uint8), (height, width, 3))


def objects(boxes, classes=None, difficult=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    none = [False] * len(boxes)
    return Objects(boxes, np.array(classes or [0] * len(boxes), int), np.array(difficult or none))


def detections(rows, classes=None):
    rows = np.array(rows, np.float64).reshape(-1, 5)
    return Detections(rows[:, 1:], rows[:, 0], np.array(classes or [0] * len(rows), int))


def drawn(truth, found, names=("cat", "dog"), **options):
    """The panel of one picture of 128 pixels, drawn twice as large."""
    sheet = detection_sheet([picture()], [truth], [found], class_names=names, **options)
    assert sheet.dtype == np.uint8
    return sheet[TOP : TOP + SIDE, GAP : GAP + SIDE]


def test_objects_are_dashed_and_detections_have_the_colour_of_their_class():
    panel = drawn(objects([[20, 30, 60, 90]]), detections([[0.9, 70, 40, 110, 100]], [1]))
    for y in (60, 179):  # rows and columns 60 to 179, 40 to 119 of the object
        assert [tuple(panel[y, x]) for x in (44, 45, 49, 50)] == [WHITE, BLACK, BLACK, WHITE]
    assert [tuple(panel[y, 40]) for y in (64, 65, 69, 70)] == [WHITE, BLACK, BLACK, WHITE]
    for y, x in ((80, 180), (81, 180), (199, 180), (150, 140), (150, 219)):
        assert tuple(panel[y, x]) == GREEN
    for y, x in ((120, 80), (59, 80), (150, 180), (200, 180), (150, 220), (150, 139)):
        assert tuple(panel[y, x]) == COLOUR
    text = panel[80 - LINE : 80, 140:160].reshape(-1, 3)  # above the box
    assert tuple(text[0]) == GREEN and np.any(np.all(text > 200, axis=1))


def test_without_objects_and_detections_a_picture_is_as_it_was():
    assert np.all(drawn(objects([]), detections([])) == COLOUR)
    low = detections([[0.49, 70, 40, 110, 100]])
    assert np.all(drawn(objects([]), low) == COLOUR)
    assert not np.all(drawn(objects([]), low, min_score=0.4) == COLOUR)


def test_texts_of_equal_boxes_do_not_lie_on_each_other():
    box = [30, 40, 90, 110]
    panel = drawn(objects([]), detections([[0.8, *box], [0.9, *box]], [0, 1]))
    assert tuple(panel[80, 80]) == GREEN  # the better one is above
    assert tuple(panel[79, 60]) == GREEN and tuple(panel[81 + LINE - 1, 63]) == RED


def test_the_best_detections_are_drawn():
    rows = [[0.5 + 0.01 * i, 10 * i, 0, 10 * i + 8, 120] for i in range(12)]
    panel = drawn(objects([]), detections(rows))
    boxes = [tuple(panel[200, 20 * i]) == RED for i in range(12)]
    assert boxes == [False] * 2 + [True] * dense_pictures.MOST_DETECTIONS


def test_boxes_and_long_names_stay_in_the_picture():
    name = "a name that is longer than any picture is wide " * 9
    sheet = detection_sheet(
        [picture(), picture()],
        [objects([[-50, -50, 500, 500]], difficult=[True]), objects([])],
        [detections([[0.9, 100, 120, 500, 500]]), detections([])],
        class_names=[name],
    )
    assert sheet.shape == (TOP + SIDE + LINE + GAP, GAP + 2 * (SIDE + GAP), 3)
    panel = sheet[TOP : TOP + SIDE, GAP : GAP + SIDE]
    assert tuple(panel[0, 0]) == WHITE and tuple(panel[-1, -1]) == RED
    gap = sheet[TOP : TOP + SIDE, GAP + SIDE : 2 * GAP + SIDE]
    assert np.all(gap == 255) and np.all(sheet[TOP : TOP + SIDE, -GAP:] == 255)
    assert np.all(sheet[TOP : TOP + SIDE, 2 * GAP + SIDE : -GAP] == COLOUR)


def test_a_sheet_is_bounded():
    shapes = [(1000, 3), (3, 1000), (600, 800), (1, 1)] * 4
    pictures = [np.full((*shape, 1), 70, np.uint8) for shape in shapes]
    truth, found = [objects([[0, 0, 1, 1]])] * 16, [detections([[0.9, 0, 0, 1, 1]], [70])] * 16
    sheet = detection_sheet(pictures, truth, found, class_names=["x"])
    assert sheet.shape == (TOP + 3 * (SIDE + LINE + GAP), 1064, 3)
    masks = [np.full(shape, 255, np.uint8) for shape in shapes]
    sheet = segmentation_sheet(pictures, masks, masks, class_names=["x"])
    assert sheet.shape == (TOP + 6 * (SIDE + LINE + GAP), 1624, 3)


def test_masks_have_vocs_colours_and_ignored_pixels_are_grey():
    true = np.zeros((64, 128), np.uint8)
    true[:16], true[16:32] = 255, 1
    found = np.zeros((64, 128), np.int64)
    found[:, 64:] = 20
    sheet = segmentation_sheet([picture(64)], [true], [found], class_names=["cat"] * 20)
    assert sheet.shape == (TOP + 128 + LINE + GAP, 816, 3)
    panels = [sheet[TOP : TOP + 128, GAP + i * 264 :][:, :256] for i in range(3)]
    assert np.all(panels[0] == COLOUR)
    assert np.all(panels[1][:32] == GREY) and np.all(panels[1][32:64] == RED)
    assert np.all(panels[1][64:] == BLACK)
    assert np.all(panels[2][:, :128] == BLACK) and np.all(panels[2][:, 128:] == (0, 64, 128))
    assert GREY not in [tuple(colour) for colour in voc_palette().tolist()]
    legend = sheet[GAP + LINE : TOP - GAP].reshape(-1, 3)
    for colour in (BLACK, RED, (0, 64, 128), GREY):
        assert np.sum(np.all(legend == colour, axis=1)) >= 100
    assert not np.any(np.all(legend == GREEN, axis=1))  # it does not occur


def test_the_share_of_right_pixels_is_below_the_prediction(monkeypatch):
    sheets = []
    monkeypatch.setattr(
        dense_pictures, "_sheet", lambda heading, legend, cells, **_: sheets.append(cells)
    )
    true, found = np.array([[255, 1, 1, 0]]), np.array([[0, 1, 0, 0]])
    for mask in (true, np.full((1, 4), 255)):
        segmentation_sheet([picture(1, 4)], [mask], [found], class_names=["cat"])
    assert [cells[0].texts[2] for cells in sheets] == ["prediction, 66.7 % right", "prediction"]


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="at least one picture, found none"):
        detection_sheet([], [], [], class_names=[])
    with pytest.raises(ValueError, match="1 pictures needs as many detections, found 2"):
        detection_sheet([picture()], [objects([])], [detections([])] * 2, class_names=[])
    mask = np.zeros((128, 128), int)
    with pytest.raises(ValueError, match=r"masks of \(128, 128\), found \(128, 128\) and \(1, 1\)"):
        segmentation_sheet([picture()], [mask], [mask[:1, :1]], class_names=[])
