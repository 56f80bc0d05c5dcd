"""Normalised mutual information and the report of a clustering, worked by hand."""

import numpy as np
import pytest

from jssl import evaluate


def test_nmi_is_of_the_arithmetic_mean():
    """I = ln 2, H = ln 2 and 1.5 ln 2: 1 / 1.25. The geometric mean would give 0.8165."""
    assert evaluate.nmi([0, 0, 1, 1], [0, 0, 1, 2]) == pytest.approx(0.8, abs=1e-12)


def test_nmi_of_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 200), rng.integers(0, 7, 200)
    b = np.where(rng.random(200) < 0.5, a, b)
    joint = np.array([[np.mean((a == i) & (b == j)) for j in range(7)] for i in range(4)])
    rows, columns = joint.sum(1), joint.sum(0)
    mutual = sum(
        joint[i, j] * np.log(joint[i, j] / (rows[i] * columns[j]))
        for i in range(4)
        for j in range(7)
        if joint[i, j]
    )
    entropies = -np.sum(rows * np.log(rows)) - np.sum(columns * np.log(columns))
    assert evaluate.nmi(a, b) == pytest.approx(2 * mutual / entropies, rel=1e-10)
    assert evaluate.nmi(a, (a + 1) % 4) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two int"):
        evaluate.nmi([0, 1], [0])


def test_report_by_hand():
    report = evaluate.cluster_report(
        np.array([2, 2, 2, 0, -1, 2]),
        num_clusters=4,
        previous=np.array([1, 1, 1, 3, 0, -1]),
        labels=np.array([-1, -1, 7, 8, 8, 7]),
    )
    shares = np.array([0.2, 0.8])
    assert report == {
        "entropy": pytest.approx(-np.sum(shares * np.log(shares))),
        "empty": 2.0,
        "largest_share": pytest.approx(0.8),
        "nmi_previous": pytest.approx(1.0),  # of the four that have both
        "nmi_labels": pytest.approx(1.0),  # of the three that have both
    }


def test_unavailable_statistics_are_left_out():
    report = evaluate.cluster_report(
        np.array([0, 1]), num_clusters=2, previous=np.array([-1, -1]), labels=np.array([-1, -1])
    )
    assert report == {"entropy": pytest.approx(np.log(2)), "empty": 0.0, "largest_share": 0.5}
    with pytest.raises(ValueError, match="found none"):
        evaluate.cluster_report(np.array([-1, -1]), num_clusters=2)
