"""Data sets of Hugging Face `datasets`, from folders and from a cache, without a network."""

import json
import os
import pickle
import shutil
import socket
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data.build import DEFAULTS, has_split, is_tfds
from jssl.errors import UserError

datasets = pytest.importorskip("datasets")
NAMES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def quiet_and_alone(monkeypatch, tmp_path):
    """No bars, a cache of its own, and an error for whoever connects."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(datasets, "load_dataset", connect)


def pixels(level):
    return np.full((6, 8, 3), level, np.uint8)


def made(levels, labels=None, **columns):
    """A data set of pictures of one grey; a label is by default the level mod 2."""
    labels = [level % 2 for level in levels] if labels is None else labels
    columns = {"image": [Image.fromarray(pixels(x)) for x in levels], "label": labels, **columns}
    stored = datasets.Dataset.from_dict(columns)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    for key, kind in kinds.items():
        if key in stored.features and not isinstance(stored.features[key], datasets.ClassLabel):
            stored = stored.cast_column(key, kind)
    return stored


def section(folder=None, **keys):
    return ConfigDict({**DEFAULTS, "name": "hf", "data_dir": str(folder or ""), **keys})


def check(source, levels, labels=None):
    assert isinstance(source, data.Source) and len(source) == len(levels)
    for i, level in enumerate(levels):
        example = source[i]
        np.testing.assert_array_equal(example["image"], pixels(level))
        assert example["label"] == (level % 2 if labels is None else labels[i])
        assert example["index"] == i
        assert isinstance(source.encoded(i)["image"], data.Picture)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "pets"
    splits = {"train": made(range(7)), "validation": made([9, 8])}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


def test_a_folder_of_save_to_disk(saved):
    train, test = (data.make_source(section(saved), s) for s in ("train", "test"))
    check(train, range(7))
    check(test, [9, 8])
    assert train.name == "hf:pets" and train.class_names == ("cat", "dog")
    np.testing.assert_array_equal(train.labels, [0, 1, 0, 1, 0, 1, 0])
    assert "7 pictures in column 'image', 2 classes in column 'label'" in data.describe(train)
    assert has_split(section(saved), "test") and not is_tfds("hf") and not is_tfds("hf:a/b:c")
    check(data.make_source(section(saved, train_split="validation"), "probe"), [9, 8])
    check(pickle.loads(pickle.dumps(train)), range(7))  # as worker processes get it
    with pytest.raises(UserError, match="no split tst: .*validation.*data.test_split=SPLIT"):
        data.make_source(section(saved, test_split="tst"), "test")


def test_a_folder_without_splits_in_several_files(tmp_path):
    made(range(7)).save_to_disk(str(tmp_path / "x"), num_shards=3)
    check(data.make_source(section(tmp_path / "x"), "train"), range(7))
    assert not has_split(section(tmp_path / "x"), "test")
    with pytest.raises(UserError, match="no split val or test or validation"):
        data.make_source(section(tmp_path / "x"), "test")


@pytest.mark.parametrize("names", [
    {"train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
     "test": ["test-00000-of-00001.parquet"]},
    {"train": ["default/train/0000.parquet", "default/train/0001.parquet"],
     "test": ["default/test/0000.parquet"]},
    {"train": ["a.parquet", "b.parquet"]},
])  # fmt: skip
def test_folders_of_parquet(names, tmp_path):
    folder = tmp_path / "with [1] * ?"
    for files in names.values():
        for number, file in enumerate(files):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            made(range(3 * number, 3 * number + 3)).to_parquet(str(folder / file))
    check(data.make_source(section(folder), "train"), range(6))
    if "test" in names:
        check(data.make_source(section(folder), "test"), range(3))
        made([1]).to_parquet(str(folder / "other.parquet"))
        with pytest.raises(
            UserError, match="of test, train, and others of no split.*other.parquet"
        ):
            data.make_source(section(folder), "train")


def cached(cache, name, config="default", version="0.0.0", code="abc", levels=range(5), shards=1):
    """Writes what `load_dataset` leaves in the cache."""
    folder = cache / name.replace("/", "___") / config / version / code
    folder.mkdir(parents=True)
    base, levels = name.split("/")[-1], list(levels)
    for number in range(shards):
        part = made(levels[number::shards])
        end = f"-{number:05d}-of-{shards:05d}" if shards > 1 else ""
        part.save_to_disk(str(folder / "tmp"))
        (folder / "tmp" / "data-00000-of-00001.arrow").rename(folder / f"{base}-train{end}.arrow")
        shutil.rmtree(folder / "tmp")
    info = {"splits": {"train": {"name": "train", "num_examples": len(levels)}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_a_data_set_in_the_cache(tmp_path):
    cache = tmp_path / "cache"
    cached(cache, "me/pets", shards=2, levels=range(6))
    check(data.make_source(section(name="hf:me/pets"), "train"), [0, 2, 4, 1, 3, 5])
    old = cached(cache, "plain", code="old", levels=[1])
    os.utime(old / "dataset_info.json", (1, 1))
    cached(cache, "plain", code="new", levels=[2])
    cached(cache, "plain", code="never.incomplete", levels=[3])
    check(data.make_source(section(name="hf:plain"), "train"), [2])
    cached(cache, "plain", config="large", levels=[4])
    check(data.make_source(section(name="hf:plain:large"), "train"), [4])
    other = tmp_path / "other"
    cached(other, "plain", levels=[5])
    check(data.make_source(section(other, name="hf:plain"), "train"), [5])
    for name, message in {
        "hf:plain": "has 2 configurations: default, large. Type .*=hf:plain:default",
        "hf:plain:larg": "has no 'larg': did you mean 'large'",
        "hf:you/pets": "not in the cache .*which has: me/pets, plain. .*load_dataset",
        "hf:../x": "is no name: expected hf:NAME",
        "hf:": "is no name",
        "hf:a/b/c": "is no name",
    }.items():
        with pytest.raises(UserError, match=message):
            data.make_source(section(name=name), "train")


def test_a_cache_that_lacks_a_file(tmp_path):
    folder = cached(tmp_path / "cache", "me/pets", shards=2, levels=range(6))
    (folder / "pets-train-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match="has 1 arrow files of split 'train': expected 2"):
        data.make_source(section(name="hf:me/pets"), "train")


def save(tmp_path, stored):
    stored.save_to_disk(str(tmp_path / "x"))
    return tmp_path / "x"


def test_columns_are_chosen_or_named(tmp_path):
    second = [Image.fromarray(pixels(50 + x)) for x in range(4)]
    stored = made(
        range(4), mask=second, coarse=[0, 0, 1, 1], number=[3, 2, 1, 0], text=list("abcd")
    )
    stored = stored.cast_column("mask", datasets.Image())
    stored = stored.cast_column("coarse", datasets.ClassLabel(names=NAMES))
    folder = save(tmp_path, stored)

    def source(**keys):
        return data.make_source(section(folder, **keys), "train")

    for keys, message in (
        ({}, "has 2 columns of pictures among .*: expected one. Type .*image_column=image"),
        ({"image_column": "image"}, "2 columns of labels: label, coarse. Type .*=label, or none"),
        ({"image_column": "imag"}, r"column 'imag' \(did you mean 'image'"),
        ({"image_column": "text"}, r"column 'text' \(it is string\)"),
        ({"image_column": "image", "label_column": "text"}, r"no labels in .* \(it is string\)"),
        ({"image_column": "image", "label_column": "labl"}, "did you mean 'label'"),
    ):
        with pytest.raises(UserError, match=message):
            source(**keys)
    check(source(image_column="image", label_column="coarse"), range(4), [0, 0, 1, 1])
    numbers = source(image_column="mask", label_column="number")
    check(numbers, range(50, 54), [3, 2, 1, 0])
    assert (numbers.num_classes, numbers.class_names) == (4, None)
    none = source(image_column="image", label_column="none")
    check(none, range(4), [-1] * 4)
    assert (none.num_classes, none.class_names) == (0, ())


def test_bytes_in_a_plain_column(tmp_path, encode):
    stored = datasets.Dataset.from_dict({"jpg": [encode(pixels(x)) for x in range(3)]})
    folder = save(tmp_path, stored)
    with pytest.raises(UserError, match=r"0 columns of pictures among jpg \(binary\).*=COLUMN"):
        data.make_source(section(folder), "train")
    check(data.make_source(section(folder, image_column="jpg"), "train"), range(3), [-1] * 3)


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 10**7], "example 1: label 10000000"), ([-2, 0], "label -2")]
)
def test_numbers_that_are_no_labels(labels, message, tmp_path):
    stored = made(range(2)).remove_columns("label").add_column("label", labels)
    with pytest.raises(UserError, match=message):
        data.make_source(section(save(tmp_path, stored)), "train")


def test_numbers_have_the_same_classes_in_all_splits(tmp_path):
    parts = {"train": [0, 2], "test": [5, 1], "validation": [-1, -1]}
    stored = {
        split: made(range(2)).remove_columns("label").add_column("label", labels)
        for split, labels in parts.items()
    }
    datasets.DatasetDict(stored).save_to_disk(str(tmp_path / "x"))
    keys = {"test_split": "test"}
    sources = [data.make_source(section(tmp_path / "x", **keys), s) for s in ("train", "test")]
    assert [s.num_classes for s in sources] == [6, 6]


def test_hidden_labels_are_no_labels(tmp_path):
    folder = save(tmp_path, made(range(3), labels=[-1, -1, -1]))
    source = data.make_source(section(folder), "train")
    assert (source.num_classes, source.class_names) == (0, ())


def test_pictures_that_cannot_be_read(tmp_path, encode):
    kind = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    (tmp_path / "a.png").write_bytes(encode(pixels(1)))
    rows = [{"bytes": b"no picture", "path": "b.png"}, {"bytes": None, "path": "gone.png"},
            {"bytes": None, "path": str(tmp_path / "a.png")}, None]  # fmt: skip
    stored = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features(image=kind))
    keys = {"image_column": "image", "on_error": "skip"}
    source = data.make_source(section(save(tmp_path, stored), **keys), "train")
    assert source.on_error == "skip"
    np.testing.assert_array_equal(source[2]["image"], pixels(1))
    for index, message in (
        (0, r"'hf:x train example 0 \(b.png\)' cannot be decoded"),
        (1, r"example 1 \(gone.png\)' is not stored"),
        (3, "example 3' is not stored"),
    ):
        with pytest.raises(data.PictureError, match=message):
            source[index]


def test_the_fingerprint_follows_content_and_labels(tmp_path):
    prints = set()
    for number, stored in enumerate((made(range(4)), made(range(4)), made([0, 1, 2, 5]),
                                     made(range(4), labels=[1, 1, 0, 1]))):  # fmt: skip
        folder = tmp_path / str(number) / "same"
        stored.save_to_disk(str(folder))
        prints.add(data.make_source(section(folder), "train").fingerprint())
    assert len(prints) == 3


@pytest.mark.parametrize("damage", ["cut", "zeros", "text", "state", "missing", "outside"])
def test_damage_is_named(damage, saved):
    file, state = saved / "train" / "data-00000-of-00001.arrow", saved / "train" / "state.json"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "zeros":
        file.write_bytes(bytes(len(content)))
    elif damage == "text":
        file.write_text("no arrow")
    elif damage == "state":
        state.write_text("{")
    elif damage == "missing":
        file.unlink()
    else:
        state.write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    with pytest.raises(UserError, match=f"{saved / 'train'}.*(again)") as error:
        data.make_source(section(saved), "train")
    assert "\n" not in str(error.value)


def test_offsets_that_lead_out_of_the_file_are_refused(saved):
    """One changed byte of the mapped file: a UserError, or a source that can be read."""
    file = saved / "validation" / "data-00000-of-00001.arrow"
    content = file.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(content), 60):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        try:
            source = data.make_source(section(saved), "test")
            for i in range(len(source)):
                source.encoded(i)
        except UserError:
            refused += 1
    assert 0 < refused < 60


def test_other_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set of save_to_disk and no parquet files"):
        data.make_source(section(tmp_path / "empty"), "train")
    with pytest.raises(UserError, match="is no folder"):
        data.make_source(section(tmp_path / "none"), "train")
    with pytest.raises(UserError, match="'hf' needs a folder .*name=hf:NAME for a data set in the"):
        data.make_source(section(), "train")


def test_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"need the package datasets, .*pip install 'jssl\[hf\]'"):
        data.make_source(section(saved), "train")
