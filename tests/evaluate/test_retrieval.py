"""Retrieval's average precision against revisitop's own code, toys, and a loop of compute_ap."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from jssl import evaluate

GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval_official.npz"


@pytest.fixture(scope="module")
def official():
    """Recorded by tests/reference/record_retrieval_official.py."""
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def compute_ap(ranked, positive, junk):
    """As the data set's compute_ap.cpp goes through the list, one image after the other."""
    area, recall, precision, found, seen = 0.0, 0.0, 1.0, 0, 0
    for image in ranked:
        if image in junk:
            continue
        found += image in positive
        now = found / len(positive), found / (seen + 1)
        area += (now[0] - recall) * (precision + now[1]) / 2
        recall, precision = now
        seen += 1
    return area


def test_trapezoid_ap_by_hand():
    """.791667 by trapezoids; scikit-learn's steps give .833333 for the same list."""
    assert evaluate.trapezoid_ap([0, 2], num_positive=2) == pytest.approx(0.791667, abs=1e-6)
    assert average_precision_score([1, 0, 1], [3, 2, 1]) == pytest.approx(0.833333, abs=1e-6)
    assert evaluate.trapezoid_ap([], num_positive=2) == 0.0
    assert evaluate.trapezoid_ap([1], num_positive=1) == pytest.approx((0 + 1 / 2) / 2)


def test_junk_by_the_loop_of_compute_ap():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(5, 30))
    roles = rng.choice(3, size=(5, 30), p=[0.6, 0.2, 0.2])
    positives = [np.flatnonzero(r == 1) for r in roles]
    junk = [np.flatnonzero(r == 2) for r in roles]
    mean, each = evaluate.retrieval_map(similarity, positives, junk)
    for ap, row, good, bad in zip(each, similarity, positives, junk, strict=True):
        ranked = sorted(range(30), key=lambda i: -row[i])
        assert ap == pytest.approx(compute_ap(ranked, set(good), set(bad)), rel=1e-12)
    assert mean == pytest.approx(np.mean(each), rel=1e-12)
    loud = similarity + 100 * (roles == 2)  # all junk first: nothing changes
    assert evaluate.retrieval_map(loud, positives, junk)[0] == pytest.approx(mean, rel=1e-12)
    assert evaluate.retrieval_map(loud, positives)[0] < 0.8 * mean


def test_revisited_as_its_authors_compute_it(official):
    """Six queries; the third has no easy images and the fifth no hard ones: they do not count."""
    roles = official["roles"]
    easy, hard, junk = ([np.flatnonzero(r == k) for r in roles] for k in (1, 2, 3))
    found = evaluate.revisited_map(official["similarity"], easy, hard, junk)
    for name in ("easy", "medium", "hard"):
        assert found[name] == pytest.approx(float(official[f"map_{name}"]), rel=1e-12)
    _, each = evaluate.retrieval_map(
        official["similarity"], easy, [[*j, *h] for j, h in zip(junk, hard, strict=True)]
    )
    np.testing.assert_allclose(each, official["ap_easy"], rtol=1e-12)
    assert np.isnan(each[2])


def test_the_query_is_cropped_after_resizing():
    """200 x 301 -> 33 x 50 with the ratio 50 / 301, and the region rounded at that scale."""
    image = np.random.default_rng(0).integers(0, 256, (200, 301, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(image).resize((50, 33), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(evaluate.query_image(image, size=50), whole)
    # 30.5, 20, 151, 130 times .16611 is 5.07, 3.32, 25.08, 21.59
    cut = evaluate.query_image(image, size=50, roi=(30.5, 20.0, 151.0, 130.0))
    np.testing.assert_array_equal(cut, whole[3:22, 5:25])
    with pytest.raises(ValueError, match="found nothing"):
        evaluate.query_image(image, size=50, roi=(400, 0, 500, 100))
    with pytest.raises(ValueError, match=r"uint8 \[H,W,3\]"):
        evaluate.query_image(image[..., 0], size=50)


def test_misuse_is_refused():
    similarity = np.zeros((1, 4))
    with pytest.raises(ValueError, match=r"\[4\] outside and \[\] in both"):
        evaluate.retrieval_map(similarity, [[4]])
    with pytest.raises(ValueError, match=r"\[\] outside and \[1\] in both"):
        evaluate.retrieval_map(similarity, [[1, 2]], [[1]])
    with pytest.raises(ValueError, match="Q lists"):
        evaluate.retrieval_map(similarity, [[1], [2]])
    with pytest.raises(ValueError, match="not a number"):
        evaluate.retrieval_map(similarity * np.nan, [[1]])
    with pytest.raises(ValueError, match="found none"):
        evaluate.retrieval_map(similarity, [[]])
    with pytest.raises(ValueError, match="same queries"):
        evaluate.revisited_map(similarity, [[1]], [[2], [3]], [[]])
    with pytest.raises(ValueError, match="each once"):
        evaluate.trapezoid_ap([1, 1], num_positive=2)
    with pytest.raises(ValueError, match="at least 2 positives, found 1"):
        evaluate.trapezoid_ap([0, 1], num_positive=1)
