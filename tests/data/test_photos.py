"""The embedded tiles: counts, disjointness, difficulty."""

import numpy as np
import pytest

from jssl.data import photos
from jssl.errors import UserError


def raw_knn_error(tile):
    (train, train_labels), (test, test_labels) = (photos.load(s, tile) for s in ("train", "test"))

    def unit(x):
        # The closest 20th and 21st neighbours differ by 2e-10: float32's sums, which depend on the
        # machine and its threads, would choose, float64's do not.
        x = x.reshape(len(x), -1).astype(np.float64)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    similarity = unit(test) @ unit(train).T
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.1)
    votes = np.zeros((len(test), 16))
    for row, (neighbours, weight) in enumerate(zip(nearest, weights, strict=True)):
        np.add.at(votes[row], train_labels[neighbours], weight)
    return np.mean(votes.argmax(axis=1) != test_labels)


@pytest.mark.parametrize(
    ("tile", "train", "test"), [(32, 3200, 1200), (64, 3130, 1116), (96, 2932, 710)]
)
def test_counts_match_the_docstring(tile, train, test):
    for split, count in (("train", train), ("test", test)):
        images, labels = photos.load(split, tile)
        assert images.shape == (count, tile, tile, 3) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int32
        assert sorted(set(labels.tolist())) == list(range(16))
        assert f"{count:,}" in photos.__doc__
    assert tile != 32 or np.bincount(photos.load("train", 32)[1]).tolist() == [200] * 16
    assert tile != 32 or np.bincount(photos.load("test", 32)[1]).tolist() == [75] * 16


@pytest.mark.parametrize("tile", [32, 64, 96])
def test_no_pixel_of_a_test_tile_is_in_a_train_tile(tile):
    for label in range(16):
        height, width = photos.read(label).shape[:2]
        covered = {}
        for split in ("train", "test"):
            covered[split] = np.zeros((height, width), bool)
            for y, x in photos.tile_corners(height, width, split, tile):
                assert 0 <= y <= height - tile and 0 <= x <= width - tile
                covered[split][y : y + tile, x : x + tile] = True
            assert covered[split].any()
        assert not (covered["train"] & covered["test"]).any()


def test_tiles_are_cut_where_the_corners_say():
    images, labels = photos.load("test", 32)
    for label in (0, 8, 15):
        photo = photos.read(label)
        corners = photos.tile_corners(*photo.shape[:2], "test", 32)
        windows = {photo[y : y + 32, x : x + 32].tobytes() for y, x in corners}
        own = images[labels == label]
        assert all(image.tobytes() in windows for image in own)
        assert len({image.tobytes() for image in own}) > len(own) // 2


def test_ten_photographs_have_colour_and_six_are_grey():
    grey = [bool((p[..., :1] == p).all()) for p in (photos.read(label) for label in range(16))]
    assert grey == [False] * 10 + [True] * 6


def test_difficulty_matches_the_docstring():
    error = raw_knn_error(32)
    assert 0.55 < error < 0.70
    assert f"{100 * error:.1f} % of the test tiles, {round(1200 * error)};" in photos.__doc__


def test_invalid_arguments():
    with pytest.raises(UserError, match="splits train and test; found 'val'"):
        photos.load("val", 32)
    with pytest.raises(UserError, match=r"32, 64, 96 pixels; found data.tile=48.*data.tile=32"):
        photos.load("train", 48)


def test_a_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(photos, "PHOTOS", (("lost", "skimage", "data/lost.png"),))
    with pytest.raises(UserError, match=r"'lost'.*pip install --force-reinstall scikit-image"):
        photos.read(0)
