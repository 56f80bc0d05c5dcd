"""Folders of pictures: layouts and error messages."""

import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.errors import UserError


def config(root, **values):
    return ConfigDict({**DEFAULTS, "name": "folder", "data_dir": str(root), **values})


def test_class_folders_with_splits(class_folder):
    train, test = (data.make_source(config(class_folder), s) for s in ("train", "test"))
    assert isinstance(train, data.Source)
    assert (len(train), len(test)) == (12, 6)
    assert train.class_names == test.class_names == ("cat", "dog") and train.num_classes == 2
    for label in (0, 1):
        for i in range(6):
            example = train[6 * label + i]
            assert example["label"] == label and example["index"] == 6 * label + i
            assert example["label"].dtype == example["index"].dtype == np.int32
            np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), 10 * label + i))
    assert train.fingerprint() != test.fingerprint()
    probe = data.make_source(config(class_folder), "probe")
    assert probe.fingerprint() == train.fingerprint()


def test_class_folders_without_splits(class_folder):
    source = data.make_source(config(class_folder / "train"), "train")
    assert len(source) == 12 and source.class_names == ("cat", "dog")
    assert not data.has_split(config(class_folder / "train"), "test")
    assert data.has_split(config(class_folder), "test")
    assert data.has_split(config(class_folder), "train")


def test_a_flat_folder_has_no_labels(class_folder, encode):
    flat = class_folder / "train" / "cat"
    (flat / ".hidden.png").write_bytes(b"x")
    (flat / "notes.txt").write_bytes(b"x")
    source = data.make_source(config(flat), "train")
    assert len(source) == 6 and source.num_classes == 0
    assert source[5]["label"] == -1
    # Flat splits: 'train' is a split here, not a class.
    root = class_folder.parent / "flat"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        (root / split / "1.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    assert len(data.make_source(config(root), "train")) == 1
    assert data.make_source(config(root), "test").num_classes == 0


def test_nested_pictures_and_upper_case_endings_are_found(class_folder):
    deep = class_folder / "train" / "cat" / "more" / "deep"
    deep.mkdir(parents=True)
    shutil.copy(class_folder / "train" / "cat" / "0.png", deep / "X.PNG")
    source = data.make_source(config(class_folder), "train")
    assert len(source) == 13
    assert sum(int(source[i]["label"]) == 0 for i in range(13)) == 7


def test_named_subfolders(class_folder):
    source = data.make_source(config(class_folder, train_split="val"), "train")
    assert len(source) == 6
    assert len(data.make_source(config(class_folder, train_split="val"), "probe")) == 6
    assert len(data.make_source(config(class_folder, probe_split="train"), "probe")) == 12


def test_fingerprint_changes_with_the_files(class_folder):
    before = data.make_source(config(class_folder), "train").fingerprint()
    assert before == data.make_source(config(class_folder), "train").fingerprint()
    (class_folder / "train" / "dog" / "5.png").unlink()
    assert before != data.make_source(config(class_folder), "train").fingerprint()


def test_a_missing_file_is_named(class_folder):
    source = data.make_source(config(class_folder), "train")
    (class_folder / "train" / "cat" / "2.png").unlink()
    with pytest.raises(data.PictureError, match=r"cat/2.png' cannot be read: No such file"):
        source[2]


def mistake(root, split="train", **values):
    with pytest.raises(UserError) as caught:
        data.make_source(config(root, **values), split)
    return str(caught.value)


def test_no_folder(tmp_path):
    message = mistake(tmp_path / "nowhere")
    assert "nowhere' does not exist" in message and "--config.data.data_dir=FOLDER" in message


def test_no_pictures(tmp_path):
    assert "holds no pictures: found no files; expected files that end in .jpg" in mistake(tmp_path)
    for name in ("a.txt", "b.txt", "c.csv"):
        (tmp_path / name).write_text("x")
    assert "found 2 x '.txt', 1 x '.csv'; expected" in mistake(tmp_path)
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    assert "holds no pictures: found no files" in mistake(tmp_path / "classes")


def test_one_class(class_folder):
    shutil.rmtree(class_folder / "train" / "dog")
    message = mistake(class_folder)
    assert "holds one class: found 6 pictures, all in 'cat'; expected two sub-folders" in message
    flat = class_folder / "train" / "cat"
    assert message.endswith(f"Type --config.data.data_dir={flat}")
    assert data.make_source(config(flat), "train").num_classes == 0  # what it says to type works
    (class_folder / "train" / "dog").mkdir()  # an empty folder is not a second class
    assert "holds one class" in mistake(class_folder)


def test_pictures_beside_class_folders(class_folder):
    shutil.copy(class_folder / "train" / "cat" / "0.png", class_folder / "train" / "stray.png")
    message = mistake(class_folder)
    assert "holds 1 pictures (such as 'stray.png') beside 2 folders (such as 'cat')" in message


def test_no_such_split(class_folder):
    message = mistake(class_folder / "train", "test")
    assert "no sub-folder val or test or validation for the test split" in message
    assert "found sub-folders: cat, dog" in message and "--config.data.test_split=" in message
    shutil.rmtree(class_folder / "train")
    assert "no sub-folder train for the train split; found sub-folders: val" in mistake(
        class_folder
    )


def test_description_names_missing_classes(class_folder):
    (class_folder / "val" / "dog").rename(class_folder / "val" / "dogs")
    train, test = (data.make_source(config(class_folder), s) for s in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "dogs")
    assert test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    message = train.description()
    assert "train 12 pictures of 2 classes, none of dogs; val 6 pictures of 2 classes" in message


def test_test_labels_use_all_classes(class_folder):
    bird = class_folder / "train" / "bird"
    shutil.copytree(class_folder / "train" / "cat", bird)
    test = data.make_source(config(class_folder), "test")
    assert test.num_classes == 3
    assert [int(test[i]["label"]) for i in range(6)] == [1, 1, 1, 2, 2, 2]
    (class_folder / "train").rename(class_folder / "mine")
    test = data.make_source(config(class_folder, train_split="mine"), "test")
    assert [int(test[i]["label"]) for i in range(6)] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("value", "shape"), [("", (8, 6)), ("apply", (8, 6)), ("ignore", (6, 8))])
def test_exif_orientation_of_a_folder_is_applied_unless_ignored(tmp_path, encode, value, shape):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encode(np.zeros((6, 8, 3), np.uint8), "JPEG", exif=exif))
    source = data.make_source(config(tmp_path, exif_orientation=value), "train")
    assert source[0]["image"].shape == (*shape, 3)
    assert source.encoded(0)["image"].size() == shape


def test_random_crops_of_a_folder_come_from_the_original(class_folder):
    section = config(class_folder)
    source = data.make_source(section, "train")
    assert data.resolve_crop(section, source) == "torchvision"
    assert data.resolve_crop(section, source, random=False) == "device"
    assert data.resolve_crop(config(class_folder, image_size=64), source) == "device"
    assert data.resolve_crop(config(class_folder, host_crop="tf"), source) == "tf"
    assert data.resolve_crop(config(class_folder, host_crop="device"), source) == "device"
    one_size = ConfigDict(DEFAULTS)
    assert data.resolve_crop(one_size, data.make_source(one_size, "train")) == "device"
