"""Average precision against values worked by hand, loops of the definition, and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jssl import evaluate

TOY = np.array([1, 0, 1, 1, 0, 0, 1])


def falling(n):
    return -np.arange(float(n))


def rank_by_hand(scores, positive):
    """Precision and recall after each of the best, one after the other."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    precision, recall, found = [], [], 0
    for k, i in enumerate(order):
        found += positive[i]
        precision.append(found / (k + 1))
        recall.append(found / sum(positive))
    return precision, recall


@pytest.mark.parametrize(
    ("definition", "golden", "by_hand"),
    [
        ("voc2007", 0.63312, (3 * 1 + 3 * 3 / 4 + 3 * 4 / 7) / 11),
        ("voc2010", 0.61429, (1 + 3 / 4 + 3 / 4 + 4 / 7) / 5),
        ("step", 0.59762, (1 + 2 / 3 + 3 / 4 + 4 / 7) / 5),
    ],
)
def test_average_precision_of_a_toy_detection(definition, golden, by_hand):
    """Five positives of which the list has four, as py-faster-rcnn's voc_eval.py has it.

    Precision at the hits is 1, 2/3, 3/4, 4/7, at recalls of .2, .4, .6, .8. The thresholds 0, .1,
    .2 take 1; .3, .4, .5 take 3/4; .6 would too, but is np.arange's 0.6000000000000001, above 3/5:
    it takes 4/7 as .7 and .8 do. .9 and 1 are never reached.
    """
    found = evaluate.average_precision(falling(7), TOY, definition=definition, num_positive=5)
    assert round(found, 5) == golden
    assert found == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_definitions_by_loops(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.normal(size=40), rng.integers(0, 2, 40)
    precision, recall = rank_by_hand(scores, positive)
    eleven = [
        max([p for p, r in zip(precision, recall, strict=True) if r >= t], default=0.0)
        for t in np.arange(0, 1.1, 0.1)
    ]
    area, before = 0.0, 0.0
    for k, r in enumerate(recall):
        area += (r - before) * max(precision[k:])
        before = r
    found = {
        d: evaluate.average_precision(scores, positive, definition=d)
        for d in ("voc2007", "voc2010", "step")
    }
    assert found["voc2007"] == pytest.approx(np.mean(eleven), rel=1e-12)
    assert found["voc2010"] == pytest.approx(area, rel=1e-12)
    assert found["step"] == pytest.approx(average_precision_score(positive, scores), rel=1e-12)
    assert found["step"] < found["voc2010"]


def test_ties():
    """scikit-learn takes examples of one score at once; VOC in the order they come in."""
    scores, positive = np.array([2.0, 1.0, 1.0, 1.0, 0.0]), np.array([1, 0, 1, 0, 1])
    step = evaluate.average_precision(scores, positive, definition="step")
    assert step == pytest.approx(average_precision_score(positive, scores), rel=1e-12)
    assert step == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    area = evaluate.average_precision(scores, positive, definition="voc2010")
    assert area == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


@pytest.mark.parametrize("definition", ["voc2007", "voc2010", "step"])
def test_ignored_examples_do_not_count(definition):
    rng = np.random.default_rng(0)
    scores, positive, ignore = rng.normal(size=30), rng.random(30) < 0.3, rng.random(30) < 0.4
    assert np.any(positive & ignore) and np.any(~positive & ignore)
    found = evaluate.average_precision(scores, positive, ignore, definition=definition)
    alone = evaluate.average_precision(scores[~ignore], positive[~ignore], definition=definition)
    counted = evaluate.average_precision(scores, positive, definition=definition)
    assert found == alone != counted
    perfect = evaluate.average_precision(positive, positive, ignore, definition=definition)
    assert perfect == pytest.approx(1.0)


def test_mean_over_classes():
    rng = np.random.default_rng(0)
    scores, labels, ignore = rng.normal(size=(20, 4)), rng.random((20, 4)) < 0.4, np.zeros((20, 4))
    ignore[:5, 1] = 1
    labels[:, 2] = 0  # a class without positives does not count
    labels[:, 3] = 0
    labels[3, 3] = True
    mean, each = evaluate.mean_average_precision(scores, labels, ignore, definition="step")
    alone = [
        average_precision_score(labels[:, 0], scores[:, 0]),
        average_precision_score(labels[5:, 1], scores[5:, 1]),
        average_precision_score(labels[:, 3], scores[:, 3]),
    ]
    np.testing.assert_allclose(each, [*alone[:2], np.nan, alone[2]], rtol=1e-12)
    assert mean == pytest.approx(np.mean(alone), rel=1e-12)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="found '2007'"):
        evaluate.average_precision(falling(7), TOY, definition="2007")
    with pytest.raises(ValueError, match="one M"):
        evaluate.average_precision(falling(6), TOY, definition="step")
    with pytest.raises(ValueError, match="pass ignore separately"):
        evaluate.average_precision(falling(2), np.array([1, 255]), definition="step")
    with pytest.raises(ValueError, match="1 scores not a number"):
        evaluate.average_precision(np.array([1, np.nan]), np.array([1, 0]), definition="step")
    with pytest.raises(ValueError, match="found 4 positives, expected 3"):
        evaluate.average_precision(falling(7), TOY, definition="step", num_positive=3)
    assert np.isnan(evaluate.average_precision(falling(7), 0 * TOY, definition="step"))
    with pytest.raises(ValueError, match="found none"):
        evaluate.mean_average_precision(np.zeros((2, 2)), np.zeros((2, 2)), definition="step")
    with pytest.raises(ValueError, match=r"\[M,K\]"):
        evaluate.mean_average_precision(np.zeros((2, 2)), np.zeros((2, 3)), definition="step")


def test_no_retrieved_positive_gives_zero():
    """A detector without boxes, where there are objects."""
    for definition in ("voc2007", "voc2010", "step"):
        empty = evaluate.average_precision([], [], definition=definition, num_positive=3)
        assert empty == 0.0
