"""R-MAC against DeepCluster's own regions and whitening, and against loops."""

from pathlib import Path

import numpy as np
import pytest

from jssl import evaluate
from jssl.state import pca as pca_lib

GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval_official.npz"


@pytest.fixture(scope="module")
def official():
    """Recorded by tests/reference/record_retrieval_official.py."""
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("height", "width", "count"), [(32, 32, 14), (32, 48, 20), (48, 64, 20), (20, 64, 38)]
)
def test_number_of_regions(height, width, count):
    assert len(evaluate.rmac_regions(height, width)) == count


def test_regions_are_the_authors(official):
    """As sets of squares, for nine sizes; theirs are left, top, width, height."""
    sizes = [k.split("_")[1:] for k in official if k.startswith("regions_")]
    assert len(sizes) == 9
    for height, width in sizes:
        theirs = official[f"regions_{height}_{width}"][:, [1, 0, 3, 2]]
        np.testing.assert_array_equal(evaluate.rmac_regions(int(height), int(width)), theirs)


def test_a_map_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="3 levels of a map of 1 x 8"):
        evaluate.rmac_regions(1, 8)


def test_whitening_is_the_authors(official):
    """Of six directions the last is below 1e-5 of the largest variance: it is raised to that.

    Without the floor that direction would be zero or blown up, and the cosines others.
    """
    x = official["x"]
    batches = [x[None, :40], x[40:].reshape(4, 5, 6)]
    whitening = evaluate.fit_whitening(batches, dim=6)
    mapped = np.asarray(pca_lib.apply_pca(whitening, x))
    mapped = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    np.testing.assert_allclose(mapped @ mapped.T, official["gram"], atol=2e-5)
    with pytest.raises(ValueError, match="at least two regions, found 0"):
        evaluate.fit_whitening([], dim=2)
    with pytest.raises(ValueError, match=r"\[B,R,C\]"):
        evaluate.fit_whitening([x], dim=2)


def test_aggregation_by_loops():
    rng = np.random.default_rng(0)
    other, features = rng.normal(size=(3, 4, 6, 8)), rng.normal(size=(2, 7, 7, 8))

    def unit(v):
        return v / np.sqrt((v * v).sum())

    def regions(image):
        return [
            unit(
                np.array(
                    [image[t : t + h, left : left + w, c].max() for c in range(image.shape[2])]
                )
            )
            for t, left, h, w in evaluate.rmac_regions(*image.shape[:2])
        ]

    seen = np.array([v for image in other for v in regions(image)])
    mean = seen.mean(0)
    values, vectors = np.linalg.eigh((seen - mean).T @ (seen - mean))
    expected, plain = [], []
    for image in features:
        total = np.zeros(5)
        for v in regions(image):
            total += unit(((v - mean) @ vectors[:, ::-1][:, :5]) / np.sqrt(values[::-1][:5]))
        expected.append(unit(total))
        plain.append(unit(sum(regions(image))))

    features = features.astype(np.float32)
    learned = evaluate.fit_whitening([evaluate.region_max(other.astype(np.float32))], dim=5)
    found = np.asarray(evaluate.rmac_vectors(features, learned))
    np.testing.assert_allclose(
        found @ found.T, np.array(expected) @ np.array(expected).T, atol=1e-5
    )
    # A principal direction has no sign: the vectors agree up to one for each dimension.
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(evaluate.rmac_vectors(features), plain, atol=1e-6)
    with pytest.raises(ValueError, match="whitening of 8 channels"):
        evaluate.rmac_vectors(features, evaluate.fit_whitening([np.eye(3)[None]], dim=2))
    with pytest.raises(ValueError, match=r"\[B,H,W,C\]"):
        evaluate.region_max(features[0])
