"""Sources with boxes or masks by their names in a config, and the transforms of a run."""

import numpy as np
import pytest
from helpers import get_config
from PIL import Image

from jssl import config, data
from jssl.data import cutouts
from jssl.errors import UserError
from jssl.run import build, dense

IMAGES = {"train": 9, "val": 3, "test": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """VOC's layout, with the lists of VOC 2007 and 2012."""
    folder = tmp_path_factory.mktemp("data")
    cutouts.write(folder / "VOCdevkit", images=IMAGES, size=64)
    return folder / "VOCdevkit"


def section(**keys):
    c = config.base("faster_rcnn", preset="cutouts")
    c.data.update(keys)
    return c.data


def test_cut_outs_in_memory_are_those_in_a_folder(root):
    memory = data.CutoutSource("val", size=64, masks=True)
    folder = data.VocFolder(root, "val", masks=True, classes=cutouts.CLASSES)
    assert memory.class_names == folder.class_names == cutouts.CLASSES
    for i in range(len(folder)):
        ours, theirs = memory[i], folder[i]
        for key in ("boxes", "label", "difficult", "mask", "index"):
            np.testing.assert_array_equal(ours[key], theirs[key])
            assert ours[key].dtype == theirs[key].dtype
        difference = np.abs(ours["image"].astype(int) - theirs["image"])  # JPEG
        assert difference.mean() < 3


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_a_folder_by_its_name(root, kind):
    train = data.make_dense_source(section(name="folder", data_dir=str(root)), "train", kind)
    assert (len(train), train.num_classes) == (9, 6)
    assert ("mask" in train[0]) == (kind == "masks")
    both = section(name="folder", data_dir=str(root), train_split="train + val")
    assert len(data.make_dense_source(both, "train", kind)) == 12


def test_voc_takes_years_and_lists(root):
    chosen = section(name="voc", data_dir=str(root), train_split="2007/train+2007/val")
    assert len(data.make_dense_source(chosen, "train", "boxes")) == 12
    assert (
        len(data.make_dense_source(section(name="voc", data_dir=str(root)), "test", "boxes")) == 3
    )


@pytest.mark.parametrize(
    ("keys", "kind", "expected"),
    [
        ({"name": "photos"}, "boxes", "'photos' has no boxes: .*cutouts.*--config.data.name=NAME"),
        ({"name": "folder"}, "masks", "Type --config.data.data_dir=FOLDER"),
        ({"name": "voc", "train_split": "trainval"}, "boxes", "expected YEAR/LIST .*2007/trainval"),
        ({"name": "voc", "train_split": "1999/val"}, "boxes", "expected YEAR/LIST"),
        ({"name": "voc", "train_split": "2007/train"}, "masks", "VOCtrainval_06-Nov-2007.tar"),
        ({"name": "cutouts", "train_split": "trian"}, "boxes", "Unknown split 'trian'.*'train'"),
        ({"name": "cutouts", "image_size": 32}, "boxes", "side of at least 48 pixels, found 32"),
    ],
)
def test_what_is_missing_is_named(tmp_path, keys, kind, expected):
    if keys["name"] == "voc":
        keys = {**keys, "data_dir": str(tmp_path)}
    with pytest.raises(UserError, match=expected):
        data.make_dense_source(section(**keys), "train", kind)


def test_boxes_of_voc_that_is_not_here_name_what_tfds_prepares(tmp_path):
    with pytest.raises(UserError, match="prepare voc/2007.*Or unpack the official archives"):
        data.make_dense_source(section(name="voc", data_dir=str(tmp_path)), "test", "boxes")
    with pytest.raises(UserError, match="official archives only, and data_dir is empty"):
        data.make_dense_source(section(name="voc"), "test", "masks")


@pytest.mark.parametrize(("key", "value"), [("data.held_out", 5), ("monitor.every_epochs", 1.0)])
def test_a_setting_that_a_detector_does_not_read_is_refused(key, value):
    c = get_config("faster_rcnn_photos", "smoke")
    c.update_from_flattened_dict({key: value})
    expected = f"neither held-out examples nor a monitor.* found {key}.*Type --config.{key}=0"
    with pytest.raises(UserError, match=expected):
        build.build(c)


def test_sizes_that_do_not_fit_are_refused_before_the_run():
    c = get_config("faster_rcnn_photos", "smoke")
    c.faster_rcnn.test_side = 4096
    c.augment.size = 48
    c.faster_rcnn.sides = (48,)
    assert dense.test_transform(c)  # the longest side is the canvas: it is scaled down
    c = get_config("fcn_photos", "smoke")
    c.fcn.scales = (2.0, 1.0)
    with pytest.raises(UserError, match=r"scales=\(2.0, 1.0\): expected"):
        build.build(c)


def test_a_network_without_groups_is_refused():
    for name in ("faster_rcnn_photos", "fcn_photos"):
        c = get_config(name, "smoke")
        c.model = config.base("deit", preset="imagenet").model
        c.model.update({"name": "vit_tiny", "distillation_token": False})
        with pytest.raises(UserError, match="needs a ResNet, found model.name='vit_tiny'"):
            build.build(c)


def test_a_test_picture_larger_than_the_canvas_is_named(tmp_path):
    cutouts.write(tmp_path / "set", images=IMAGES, size=64)
    path = tmp_path / "set" / "VOC2007" / "JPEGImages" / "val_000001.jpg"
    mask = tmp_path / "set" / "VOC2007" / "SegmentationClass" / "val_000001.png"
    for file in (path, mask):
        picture = Image.open(file)
        picture.resize((80, 40), Image.Resampling.NEAREST).save(file)
    c = get_config("fcn_photos", "smoke")
    c.data.update({"name": "folder", "data_dir": str(tmp_path / "set")})
    parts = build.build(c)
    transform = dense.test_transform(c)
    with pytest.raises(data.PictureError, match="40 x 80 .*Type a larger --config.fcn.test_size"):
        transform(parts.test_source.encoded(1))


def test_archives_in_the_current_folder_are_found(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert len(data.make_dense_source(section(name="voc"), "test", "boxes")) == 3
