"""What holds for any boxes, detections and masks: drawn by hypothesis, the same in every run."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jssl import dense
from jssl.metrics.coco import coco_average_precision
from jssl.metrics.detection import (
    IGNORED,
    Detections,
    Objects,
    confusion,
    detection_average_precision,
    mean_iou,
)

CLASSES = 2
FAR = 1000.0  # no drawn box reaches it
drawn = hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=40)


def voc(definition):
    return lambda found, truth: detection_average_precision(
        found, truth, num_classes=CLASSES, definition=definition
    )


def coco(found, truth):
    return coco_average_precision(found, truth, num_classes=CLASSES).each


DEFINITIONS = {"voc2007": voc("voc2007"), "voc2010": voc("voc2010"), "coco": coco}
each_definition = pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)

SIDES = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(4, 40)] * 2)
KINDS = st.integers(0, CLASSES - 1)


def boxes_of(rows):
    corners = np.array(rows, np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)


@st.composite
def objects(draw, difficult=True):
    """The objects of a picture; no two are equal, else they could not be told apart."""
    sides = draw(st.lists(SIDES, max_size=4, unique=True))
    classes = [draw(KINDS) for _ in sides]
    marks = [difficult and draw(st.booleans()) for _ in sides]
    return Objects(boxes_of(sides), np.array(classes, int), np.array(marks, bool))


@st.composite
def scenes(draw):
    """Objects and detections of three pictures: objects that are moved, and boxes anywhere.

    Scores are whole thousandths, for VOC's definitions round to them, and no two are equal.
    """
    truth = [draw(objects()) for _ in range(3)]
    found = []
    for own in truth:
        shifts = arrays.arrays(np.float64, own.boxes.shape, elements=st.sampled_from([-2, 0, 1, 3]))
        moved = own.boxes + draw(shifts)
        others = boxes_of(draw(st.lists(SIDES, max_size=3)))
        classes = [draw(KINDS) for _ in others]
        found.append((np.concatenate([moved, others]), np.array([*own.classes, *classes], int)))
    total = sum(len(classes) for _, classes in found)
    scores = draw(st.lists(st.integers(1, 999), min_size=total, max_size=total, unique=True))
    return truth, with_scores(found, np.array(scores) / 1000)


def with_scores(found, scores):
    ends = np.cumsum([len(boxes) for boxes, _ in found])
    parts = np.split(np.asarray(scores, np.float64), ends[:-1])
    return [Detections(b, s, c) for (b, c), s in zip(found, parts, strict=True)]


def with_a_false_positive(found, picture, score, kind):
    boxes, scores, classes = found[picture]
    box = [[FAR, FAR, FAR + 20, FAR + 20]]
    worse = Detections(
        np.concatenate([boxes, box]), np.append(scores, score), np.append(classes, kind)
    )
    return [*found[:picture], worse, *found[picture + 1 :]]


@each_definition
@drawn
@hypothesis.given(truth=st.lists(objects(difficult=False), min_size=1, max_size=3))
def test_the_objects_themselves_give_one(definition, truth):
    found = [Detections(o.boxes, np.linspace(0.9, 0.1, len(o.boxes)), o.classes) for o in truth]
    ap = definition(found, truth)
    present = np.isin(np.arange(CLASSES), np.concatenate([o.classes for o in truth]))
    assert np.all(np.isnan(ap[:, ~present]))
    # pycocotools adds 2.2e-16 to the number of detections before it divides by it.
    np.testing.assert_allclose(ap[:, present], 1, rtol=0, atol=2.3e-16)


@each_definition
@drawn
@hypothesis.given(scene=scenes(), data=st.data())
def test_only_the_order_of_scores_counts(definition, scene, data):
    truth, found = scene
    scores = np.concatenate([d.scores for d in found])
    values = st.lists(st.integers(-999, 999), min_size=len(scores), max_size=len(scores),
                      unique=True)  # fmt: skip
    rising = np.sort(np.array(data.draw(values), float)) / 1000
    other = with_scores([(d.boxes, d.classes) for d in found], rising[np.argsort(scores.argsort())])
    np.testing.assert_array_equal(definition(found, truth), definition(other, truth))


@each_definition
@drawn
@hypothesis.given(scene=scenes(), seed=st.integers(0, 99))
def test_the_order_of_pictures_and_of_detections_does_not_count(definition, scene, seed):
    truth, found = scene
    rng = np.random.default_rng(seed)
    pictures = rng.permutation(len(truth))
    shuffled = []
    for i in pictures:
        order = rng.permutation(len(found[i].scores))
        shuffled.append(Detections(*(field[order] for field in found[i])))
    ap = definition(shuffled, [truth[i] for i in pictures])
    np.testing.assert_array_equal(ap, definition(found, truth))


@each_definition
@drawn
@hypothesis.given(scene=scenes(), picture=st.integers(0, 2), kind=KINDS)
def test_a_false_positive_lowers_it_if_it_is_the_first_and_the_last_changes_nothing(
    definition, scene, picture, kind
):
    truth, found = scene
    before = definition(found, truth)
    last = definition(with_a_false_positive(found, picture, 0.0, kind), truth)
    np.testing.assert_array_equal(last, before)
    first = definition(with_a_false_positive(found, picture, 1.0, kind), truth)
    own = np.arange(CLASSES) == kind
    np.testing.assert_array_equal(first[:, ~own], before[:, ~own])
    right = own[None] & (before > 0)
    assert np.all(first[right] < before[right])


@pytest.mark.parametrize("definition", ["voc2007", "voc2010"])
@drawn
@hypothesis.given(scene=scenes())
def test_it_falls_from_one_threshold_to_the_next(definition, scene):
    """Not so COCO's: there a detection may take another object at another threshold."""
    truth, found = scene
    ap = DEFINITIONS[definition](found, truth)
    assert np.all((np.isnan(ap) | (ap >= 0)) & ~(ap > 1))
    assert not np.any(np.diff(ap, axis=0) > 0)


MASKS = arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, IGNORED]))
PREDICTED = arrays.arrays(np.uint8, (4, 5), elements=st.integers(0, 3))


@drawn
@hypothesis.given(labels=MASKS)
def test_labels_agree_with_themselves(labels):
    hypothesis.assume(np.any(labels != IGNORED))
    counts = confusion(labels, np.where(labels == IGNORED, 3, labels), 4)
    mean, each = mean_iou(counts)
    assert mean == 1
    np.testing.assert_array_equal(np.nonzero(each == 1)[0], np.setdiff1d(labels, [IGNORED]))


@drawn
@hypothesis.given(labels=MASKS, predicted=PREDICTED, other=PREDICTED, hidden=MASKS)
def test_ignored_pixels_never_count(labels, predicted, other, hidden):
    labels = np.where(hidden == IGNORED, IGNORED, labels)
    counts = confusion(labels, predicted, 4)
    assert counts.sum() == np.sum(labels != IGNORED)
    changed = np.where(labels == IGNORED, other, predicted)
    np.testing.assert_array_equal(confusion(labels, changed, 4), counts)
    kept = labels != IGNORED
    np.testing.assert_array_equal(confusion(labels[kept], predicted[kept], 4), counts)


N = 12
BOXES = st.lists(SIDES, min_size=N, max_size=N).map(lambda rows: boxes_of(rows).astype(np.float32))
SCORES = st.lists(st.integers(1, 99), min_size=N, max_size=N).map(np.float32)
select = jax.jit(lambda b, s, t: dense.nms(b, s, iou=t, count=N))
overlap = jax.jit(dense.box_iou)
align = jax.jit(lambda f, b: dense.roi_align(f, b, output=3, scale=1 / 8))


@drawn
@hypothesis.given(boxes=BOXES, scores=SCORES, iou=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_what_nms_keeps_it_keeps_again_and_what_it_drops_overlaps(boxes, scores, iou):
    indices, selected = (np.asarray(x) for x in select(boxes, scores, iou))
    kept = indices[selected]
    live = np.where(np.isin(np.arange(N), kept), scores, -np.inf)
    again, selected_again = (np.asarray(x) for x in select(boxes, live, iou))
    np.testing.assert_array_equal(again[selected_again], kept)
    dropped = np.setdiff1d(np.arange(N), kept)
    overlaps = np.array(overlap(boxes, boxes))
    for i in dropped:  # by one that is kept and has no lower score
        better = kept[scores[kept] >= scores[i]]
        assert np.max(overlaps[i, better]) > iou
    np.fill_diagonal(overlaps, 0)
    assert np.all(overlaps[np.ix_(kept, kept)] <= iou)


@drawn
@hypothesis.given(a=BOXES, b=BOXES)
def test_overlap_is_symmetric_and_a_share(a, b):
    ab, ba = np.asarray(overlap(a, b)), np.asarray(overlap(b, a))
    np.testing.assert_array_equal(ab, ba.T)
    assert np.all((ab >= 0) & (ab <= 1))
    np.testing.assert_array_equal(np.diag(overlap(a, a)), 1)
    np.testing.assert_array_equal(ab == 1, np.all(a[:, None] == b[None], axis=-1))


@drawn
@hypothesis.given(boxes=BOXES, level=st.integers(-8, 8))
def test_a_constant_map_stays_constant(boxes, level):
    features = jnp.full((9, 9, 2), level, jnp.float32)  # of a picture of 72 pixels
    np.testing.assert_allclose(align(features, boxes), level, rtol=0, atol=1e-5)
