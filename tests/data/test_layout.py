"""Ambiguous folders, class names, and skipped entries."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.errors import UserError


def config(root, **values):
    return ConfigDict({**DEFAULTS, "name": "folder", "data_dir": str(root), **values})


def source(root, split="train", **values):
    return data.make_source(config(root, **values), split)


@pytest.fixture(name="fill")
def fill_fixture(tmp_path, encode):
    """Writes pictures: `fill('train/cat', 3)` makes three in that folder of the root."""
    picture = encode(np.zeros((4, 4, 3), np.uint8))

    def fill(*folders, count=2, name="{}.png"):
        for folder in folders:
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (tmp_path / "set" / folder / name.format(i)).write_bytes(picture)
        return tmp_path / "set"

    return fill


def names_of(result):
    """The class of each picture by the name of its folder, and by its label."""
    folders = [os.path.basename(os.path.dirname(result.encoded(i)["image"].name))
               for i in range(len(result))]  # fmt: skip
    labels = [result.class_names[int(result[i]["label"])] for i in range(len(result))]
    return folders, labels


def refused(root, split="train", **values):
    with pytest.raises(UserError) as caught:
        source(root, split, **values)
    return str(caught.value)


def test_classes_are_numbered_once_for_all_splits(fill):
    root = fill("train/bird", "train/cat", "train/dog", "labelled/cat", "labelled/dog",
                "val/cat", "val/dog")  # fmt: skip
    for split in ("train", "probe", "test"):
        result = source(root, split, probe_split="labelled")
        assert result.class_names == ("bird", "cat", "dog") and result.num_classes == 3
        folders, labels = names_of(result)
        assert folders == labels
    # The numbers do not depend on which splits a config uses.
    assert source(root, train_split="labelled").class_names == ("bird", "cat", "dog")
    assert source(root, train_split="labelled").labels.tolist() == [1, 1, 2, 2]


def test_a_split_may_hold_classes_that_no_other_has(fill):
    root = fill("train/cat", "train/dog", "val/ant", "val/dog")
    assert source(root).class_names == ("ant", "cat", "dog")
    assert source(root).labels.tolist() == [1, 1, 2, 2]
    assert source(root, "test").labels.tolist() == [0, 0, 2, 2]


def test_unlabelled_training_with_a_labelled_probe(fill):
    root = fill("train", count=5)
    fill("labelled/cat", "labelled/dog", "val/cat", "val/dog")
    train, probe, test = (source(root, s, probe_split="labelled") for s in ("train", "probe",
                                                                            "test"))  # fmt: skip
    assert (train.num_classes, train.class_names, train.labels.tolist()) == (0, (), [-1] * 5)
    assert refused(root).endswith("of 'labelled' type --config.data.probe_split=labelled.")
    assert probe.class_names == test.class_names == ("cat", "dog")
    assert probe.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1]


def test_one_name_in_two_normal_forms_is_one_class(fill):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert nfc != nfd
    root = fill(f"train/{nfc}", "train/dog", f"val/{nfd}", "val/dog")
    train, test = source(root), source(root, "test")
    assert train.class_names == test.class_names == (nfc, "dog")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1]
    fill(f"train/{nfd}", count=1)  # both in one split
    assert source(root).labels.tolist() == [0, 0, 0, 1, 1]


def test_names_that_are_not_utf8(fill):
    root = fill("train/dog", "train/" + os.fsdecode(b"caf\xe9"), "val/dog", name="{}\n.png")
    result = source(root)
    assert len(result) == 4 and len(result.fingerprint()) == 16
    result.description().encode()


def test_a_class_called_train(fill):
    root = fill("bus", "car", "train", count=12)
    message = refused(root)
    assert "can be read in two ways: as 3 splits (" in message
    assert "train with 12 pictures and no labels" in message
    assert "or as 3 classes (bus, car, train) with 36 pictures" in message
    assert message.endswith("Type --config.data.layout=splits or --config.data.layout=classes.")
    result = source(root, layout="classes")
    assert result.class_names == ("bus", "car", "train") and len(result) == 36
    folders, labels = names_of(result)
    assert folders == labels
    assert not data.has_split(config(root, layout="classes"), "test")
    assert "has no sub-folder val or test" in refused(root, "test", layout="classes")
    split = source(root, layout="splits")
    assert len(split) == 12 and split.num_classes == 0


@pytest.mark.parametrize(
    ("folders", "kinds"),
    [
        (("blood", "test"), "splits or classes"),  # a medical set
        (("Train/cat", "Train/dog", "Test/cat", "Test/dog"), "splits or classes"),
        (("training/cat", "training/dog", "rest/cat", "rest/dog"), "splits or classes"),
        (("a/cat", "a/dog", "b/cat", "b/dog"), "splits or classes"),
        (("train/cat", "train/dog", "more/cat", "more/dog"), "splits or classes"),
        ((".", "cat", "dog"), "classes or flat"),
        ((".", "train/cat", "train/dog"), "splits or classes or flat"),
    ],
)
def test_ambiguous_layouts_are_refused(fill, folders, kinds):
    root = fill(*folders)
    end = "Type " + " or ".join(f"--config.data.layout={k}" for k in kinds.split(" or ")) + "."
    for split in ("train", "probe", "test"):
        message = refused(root, split)
        assert message.endswith(end) and "ways: as " in message
    if "classes" in kinds and "train/cat" not in folders:
        assert source(root, layout="classes").num_classes == 2
    if "flat" in kinds:
        assert source(root, layout="flat").labels.tolist() == [-1, -1]


def test_a_named_split_resolves_the_ambiguity(fill):
    root = fill("mine/cat", "mine/dog", "other/cat", "other/dog")
    assert len(source(root, train_split="mine")) == 4
    assert "data.layout=classes has no splits" in refused(
        root, layout="classes", train_split="mine"
    )
    deep = fill("images/mine/cat", "images/mine/dog", "images/other/cat", "images/other/dog")
    shutil.rmtree(deep / "mine")
    shutil.rmtree(deep / "other")
    result = source(deep, train_split="images/mine/", test_split="./images/other")
    assert result.class_names == ("cat", "dog") and len(result) == 4


def test_unknown_layouts_are_refused(fill):
    root = fill("cat", "dog")
    assert "data.layout='class': did you mean 'classes'?" in refused(root, layout="class")
    assert "Unknown data.layout='': Choices: auto, classes" in refused(root, layout="")
    older = config(root)
    del older["layout"]  # of a workdir of an older version
    assert len(data.make_source(older, "train")) == 4 and not data.has_split(older, "test")
    with pytest.raises(UserError, match="Unknown data.layout='flt'"):  # of any data set
        data.make_source(ConfigDict({**DEFAULTS, "layout": "flt"}), "train")
    assert "holds no pictures: found 2 folders, which data.layout=flat" in refused(
        root, layout="flat"
    )


def test_skipped_entries_are_counted_by_kind(fill, tmp_path):
    root = fill("train/cat", "train/dog", "val/cat", "val/dog", count=3)
    fill("__MACOSX/train/cat", "train/__MACOSX", "train/.cache", "train/cat/@eaDir")
    fill("train/cat", name="{}.jfif")
    fill("train/dog", count=1, name="{}.AVIF")
    (root / "train" / "fish").mkdir()
    (root / "train" / "labels.csv").write_text("x")
    (root / "train" / "cat" / ".DS_Store").write_text("x")
    (root / "README").write_text("x")
    os.mkfifo(root / "train" / "dog" / "pipe.jpg")
    result = source(root)
    assert len(result) == 6 and result.class_names == ("cat", "dog")
    message = result.description()
    assert "\n" not in message
    assert message.startswith(
        "folder 'set' read as splits: train 6 pictures of 2 classes; val 6 pictures of 2 "
        "classes; 2 classes: cat, dog; passed over: "
    )
    for words in (
        "2 x '__MACOSX' ('__MACOSX')",
        "1 x '@eaDir' ('train/cat/@eaDir')",
        "1 x hidden folders ('train/.cache')",
        "1 x hidden files ('train/cat/.DS_Store')",
        "2 x files ending in .jfif ('train/cat/0.jfif')",
        "1 x files ending in .AVIF ('train/dog/0.AVIF')",
        "1 x files ending in .csv ('train/labels.csv')",
        "1 x files beside the splits ('README')",
        "1 x folders without pictures ('train/fish')",
        "1 x pipes, sockets or devices ('train/dog/pipe.jpg')",
    ):
        assert words in message
    assert source(root / "val").description().endswith("nothing passed over")


def test_an_explicit_layout_counts_skipped_entries(fill):
    root = fill(".", count=3)
    fill("cat", "dog")
    assert "3 x pictures beside the class folders" in source(root, layout="classes").description()
    assert "2 x folders beside the pictures" in source(root, layout="flat").description()


def test_nested_pictures_without_labels(fill):
    """Every picture at any depth, each once: loose ones, classes, splits, and those of a link."""
    root = fill(".", "cat", "train/dog/brown", "b/c")
    (root / "b" / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    result = source(root, layout="nested")
    names = [os.path.relpath(result.encoded(i)["image"].name, root) for i in range(len(result))]
    folders = (".", "b/c", "cat", "train/dog/brown")
    expected = [os.path.normpath(f"{folder}/{i}.png") for folder in folders for i in (0, 1)]
    assert names == expected
    assert result.labels.tolist() == [-1] * 8 and result.num_classes == 0
    assert result.class_names == ()
    assert "read as nested: 8 pictures without labels" in result.description()
    assert not data.has_split(config(root, layout="nested"), "test")
    assert "has no splits" in refused(root, layout="nested", train_split="cat")
    (root / "empty").mkdir()
    assert "holds no pictures: found no files" in refused(root / "empty", layout="nested")


def test_two_links_to_a_folder_have_no_class_to_be_unsure_of(fill, tmp_path):
    root = fill("a", "b")
    other = tmp_path / "other"
    (root / "a" / "0.png").rename(tmp_path / "0.png")
    other.mkdir()
    (tmp_path / "0.png").rename(other / "0.png")
    for name in ("a", "b"):
        (root / name / "link").symlink_to(other)
    assert "found one picture in two folders" in refused(root, layout="classes")
    assert len(source(root, layout="nested")) == 4


def test_links_to_folders_above_are_loops(fill):
    root = fill("train/cat", "train/dog", "val/cat", "val/dog", count=6)
    cat = root / "train" / "cat"
    for name, target in (("up", ".."), ("self", "."), ("root", "../.."), ("top", "/")):
        (cat / name).symlink_to(target)
    (root / "train" / "dog" / "up").symlink_to(root / "train")
    (cat / "other").symlink_to(root / "val")
    result = source(root)
    folders, labels = names_of(result)
    assert folders == labels and len(result) == 12
    message = result.description()
    assert "5 x links to a folder above them (loops) ('train/cat/root')" in message
    assert "1 x links to a whole split ('train/cat/other')" in message


def test_a_real_path_is_read_once(fill, tmp_path):
    root = fill("cat", "dog", count=3)
    outside = tmp_path / "outside"
    shutil.copytree(root / "cat", outside / "deep")
    (root / "cat" / "a").symlink_to(outside)
    (root / "cat" / "b").symlink_to(outside / "deep")  # read through a already
    (root / "cat" / "dogs").symlink_to(root / "dog")  # where it lies says the class
    (root / "dog" / "9.png").symlink_to(root / "cat" / "0.png")
    (root / "kitten").symlink_to(root / "cat")
    (root / "dog" / "new.png").symlink_to(outside / "deep" / "0.png")
    message = refused(root)
    assert "'dog/new.png' in" in message and "linked into 'cat' too" in message
    (root / "dog" / "new.png").unlink()
    result = source(root)
    assert result.class_names == ("cat", "dog")
    assert result.labels.tolist() == [0] * 6 + [1] * 3
    assert "4 x links to what is read already ('kitten')" in result.description()


def test_links_to_data_are_followed(fill, tmp_path):
    """As in data sets that consist of links to another folder: folders and single pictures."""
    store = fill("cat", "dog", count=3)
    root = tmp_path / "links"
    (root / "train" / "dog").mkdir(parents=True)
    (root / "train" / "cat").symlink_to(store / "cat")
    for i in range(3):
        (root / "train" / "dog" / f"{i}.png").symlink_to(store / "dog" / f"{i}.png")
    (root / "val").symlink_to(store)
    train, test = source(root), source(root, "test")
    assert train.class_names == ("cat", "dog") and train.labels.tolist() == [0] * 3 + [1] * 3
    assert test.labels.tolist() == [0] * 3 + [1] * 3
    assert train[5]["image"].shape == (4, 4, 3)


def test_links_keep_the_order_of_files_and_folders(fill, tmp_path):
    root = fill("cat", "dog", "cat/b", count=1)
    (root / "cat" / "0.png").rename(tmp_path / "0.png")
    (root / "cat" / "0.png").symlink_to(tmp_path / "0.png")
    result = source(root)
    tails = ["/".join(result.encoded(i)["image"].name.split("/")[-2:]) for i in range(3)]
    assert tails == ["cat/0.png", "b/0.png", "dog/0.png"]


def test_broken_links_are_counted(fill):
    root = fill("cat", "dog")
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "cat" / "x.png").symlink_to("y.png")
    (root / "cat" / "y.png").symlink_to("x.png")
    result = source(root)
    assert len(result) == 4
    assert "3 x broken links ('cat/gone.png')" in result.description()


def test_fingerprint_depends_on_labels(fill):
    root = fill("train/cat", "train/dog", "val/cat", "val/dog")
    before = source(root).fingerprint()
    fill("val/ant")  # cat and dog have other numbers now
    assert source(root).fingerprint() != before
