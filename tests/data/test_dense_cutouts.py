"""The offline set: what is written is what is read, and nothing else is overwritten."""

import os
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jssl import files
from jssl.data import cutouts, photos
from jssl.data.dense_folder import VocFolder
from jssl.errors import UserError

IMAGES = {"train": 9, "val": 3, "test": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return cutouts.write(tmp_path_factory.mktemp("set") / "cut", images=IMAGES, size=64, seed=3)


def test_what_is_read_is_what_was_made(root):
    for split, count in IMAGES.items():
        source = VocFolder(root, split, masks=True)
        assert len(source) == count and source.class_names == cutouts.CLASSES
        for i in range(count):
            made, example = cutouts.scene(split, i, size=64, seed=3), source[i]
            np.testing.assert_array_equal(example["boxes"], made.boxes)
            np.testing.assert_array_equal(example["label"], made.labels)
            np.testing.assert_array_equal(example["difficult"], made.difficult)
            np.testing.assert_array_equal(example["mask"], made.mask)
            error = np.abs(example["image"].astype(int) - made.image)
            assert error.mean() < 4 and example["image"].shape == (64, 64, 3)


def test_the_special_pictures(root):
    for split in IMAGES:
        source = VocFolder(root.parent, split)
        assert source[0]["boxes"][0, [0, 2]].tolist() == [0, 64]
        assert source[1]["difficult"][0]
        assert len(source[2]["label"]) == 0
    first = (root / "Annotations" / "val_000000.xml").read_text()
    assert "<xmin>1</xmin>" in first and "<xmax>64</xmax>" in first


def test_boxes_are_those_of_the_masks():
    labels = set()
    for index in range(40):
        made = cutouts.scene("train", index, size=96)
        regions, count = ndimage.label((made.mask > 0) & (made.mask < 255))
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(regions)]
        assert sorted(boxes) == sorted(map(tuple, made.boxes.tolist())) and count == len(boxes)
        for (x1, y1, x2, y2), label in zip(made.boxes, made.labels, strict=True):
            assert made.mask[(y1 + y2) // 2, (x1 + x2) // 2] == label + 1
        sides = made.boxes[:, 2:] - made.boxes[:, :2]
        if index:
            assert np.all((sides >= round(0.3 * 96)) & (sides <= round(0.7 * 96)))
        labels |= set(made.labels.tolist())
    assert labels == set(range(6))


def test_the_set_depends_on_its_seed_only():
    a, b, c = (cutouts.scene("train", 5, size=64, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.image, b.image)
    assert not np.array_equal(a.image, c.image)
    assert not np.array_equal(a.image, cutouts.scene("val", 5, size=64, seed=1).image)


def test_train_parts_share_no_pixel_with_test_parts():
    for name in (*cutouts.CLASSES, *cutouts.BACKGROUNDS):
        photo = photos.read(photos.CLASS_NAMES.index(name))
        used = np.zeros((2, *photo.shape[:2]), bool)
        for k, split in enumerate(("train", "test")):
            for y, x in photos.tile_corners(*photo.shape[:2], split, cutouts.TILE):
                used[k, y : y + cutouts.TILE, x : x + cutouts.TILE] = True
        assert used[0].any() and used[1].any() and not (used[0] & used[1]).any()


def test_masks_have_vocs_palette(root):
    with Image.open(root / "SegmentationClass" / "train_000000.png") as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
    # From the development kit: background, aeroplane, bicycle, person, tvmonitor, border.
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]
    assert [tuple(palette[i].tolist()) for i in (0, 1, 2, 15, 20, 255)] == expected


def test_another_folder_is_not_overwritten(root, tmp_path):
    before = (root / "Annotations" / "train_000001.xml").stat().st_mtime_ns
    assert cutouts.write(root.parent, images=IMAGES, size=64, seed=3) == root
    assert (root / "Annotations" / "train_000001.xml").stat().st_mtime_ns == before
    for options in ({"size": 96}, {"seed": 4}):
        with pytest.raises(UserError, match="exists and is no set of cut-outs with these numbers"):
            cutouts.write(root.parent, **{"images": IMAGES, "size": 64, "seed": 3, **options})
    with pytest.raises(UserError, match="exists and is no set of cut-outs"):
        cutouts.write(tmp_path)
    for options in ({"images": {"train": 9}}, {"images": {**IMAGES, "val": 2}}, {"size": 47}):
        with pytest.raises(UserError, match="expected images of at least"):
            cutouts.write(tmp_path / "new", **options)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    full = OSError(28, "No space left on device")
    with mock.patch.object(files.os, "fsync", side_effect=[None] * 9 + [full]):
        with pytest.raises(UserError, match="cannot be written .No space left on device"):
            cutouts.write(tmp_path / "cut", images=IMAGES, size=64)
    assert os.listdir(tmp_path) == []
