"""TFDS data sets of the right features, really written as array_record and read back.

The builders are TFDS's own; only where they would download, a few pictures stand in.
"""

import io
import os
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data import photos
from jssl.data.build import DEFAULTS
from jssl.data.tfds_source import CATALOGUE, default_data_dir, make_builder
from jssl.errors import UserError

# name -> (splits and sizes, encoding, picture sizes, classes)
SETS = {
    "cifar10": ({"train": 12, "test": 5}, "PNG", [(32, 32)], 10),
    "cifar100": ({"train": 12, "test": 5}, "PNG", [(32, 32)], 100),
    "stl10": ({"train": 6, "test": 5, "unlabelled": 9}, "PNG", [(96, 96)], 10),
    "imagenette": ({"train": 12, "validation": 5}, "JPEG", [(160, 213), (240, 160)], 10),
    "imagenet2012": ({"train": 12, "validation": 5}, "JPEG", [(300, 200), (150, 333)], 1000),
    # The public list of 1 %, TFDS imagenet2012_subset/1pct.
    "imagenet_1pct": ({"train": 6, "validation": 5}, "JPEG", [(300, 200), (150, 333)], 1000),
}


def write(name, folder, encode, damage=()):
    """Prepares a small version of a set; example k of any split shows a part of photograph k."""
    splits, kind, sizes, classes = SETS[name]
    builder = make_builder(name, str(folder))

    def examples(split, count):
        for k in range(count):
            height, width = sizes[k % len(sizes)]
            picture = encode(photos.read(k % 16)[:height, :width][:, ::-1], kind)
            picture = picture[: len(picture) // 2] if k in damage else picture
            example = {
                "image": io.BytesIO(picture),
                "label": -1 if split == "unlabelled" else (7 * k) % classes,
                "id": f"{split}_{k}",
                "file_name": f"{split}_{k}.JPEG",
                "coarse_label": 0,
            }
            yield k, {key: example[key] for key in builder.info.features}

    generators = {split: examples(split, count) for split, count in splits.items()}
    with mock.patch.object(type(builder), "_split_generators", lambda *_, **__: generators):
        builder.download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, encode):
    folder = tmp_path_factory.mktemp("tfds")
    for name in SETS:
        write(name, folder, encode)
    return folder


def config(name, folder, **values):
    return ConfigDict({**DEFAULTS, "name": name, "data_dir": str(folder), **values})


def by_file(source):
    """Number of the photograph that each example shows, in TFDS's shuffled order."""
    return [
        int(source.encoded(i)["image"].name.split("_")[-1].split(")")[0].split(".")[0])
        for i in range(len(source))
    ]


@pytest.mark.parametrize("name", SETS)
def test_splits_features_and_labels(prepared, name):
    splits, _, sizes, classes = SETS[name]
    for split in ("train", "probe", "test"):
        source = data.make_source(config(name, prepared), split)
        tfds_split = getattr(CATALOGUE[name], split)
        assert isinstance(source, data.Source)
        assert source.name == name and len(source) == splits[tfds_split]
        unlabelled = tfds_split == "unlabelled"
        assert source.num_classes == (0 if unlabelled else classes)
        assert source.image_shape == ((*sizes[0], 3) if len(sizes) == 1 else None)
        labels = set()
        for i in range(len(source)):
            example = source[i]
            assert example["image"].dtype == np.uint8 and example["image"].shape[:2] in sizes
            assert example["label"].dtype == example["index"].dtype == np.int32
            assert example["index"] == i
            labels.add(int(example["label"]))
        assert labels == ({-1} if unlabelled else {7 * k % classes for k in range(len(source))})
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_pictures_equal_the_written_ones(prepared, name):
    source = data.make_source(config(name, prepared), "train")
    numbers = by_file(source)
    assert sorted(numbers) == list(range(12))
    for i, k in enumerate(numbers):
        example = source[i]
        height, width = example["image"].shape[:2]
        expected = photos.read(k)[:height, :width][:, ::-1]
        assert example["label"] == 7 * k % source.num_classes
        difference = np.abs(example["image"].astype(int) - expected)
        assert difference.mean() < (10 if name == "imagenet2012" else 1e-9)


def test_sub_splits_and_sums(prepared):
    part = data.make_source(config("cifar10", prepared, train_split="train[:25%]"), "train")
    assert len(part) == 3
    probe = data.make_source(config("cifar10", prepared, train_split="train[:25%]"), "probe")
    assert probe.fingerprint() == part.fingerprint()
    both = data.make_source(config("stl10", prepared, train_split="train+unlabelled"), "train")
    assert len(both) == 15 and both.num_classes == 0
    assert len(data.make_source(config("stl10", prepared), "probe")) == 6
    assert len(data.make_source(config("stl10", prepared, train_split="test"), "probe")) == 6


def test_host_crops_of_encoded_pictures_in_batches(prepared):
    settings = config("imagenet2012", prepared, host_crop="tf")
    source = data.make_source(settings, "train")
    transform = data.train_transform(settings, source, size=64, views=2)
    batches = data.train_batches(source, batch_size=4, seed=0, transform=transform)
    batch = next(batches)
    batches.close()
    assert batch["image"].shape == (4, 2, 64, 64, 3) and batch["image"].dtype == np.uint8
    transform = data.eval_transform(settings, source, size=64)
    sizes = [b["image"].shape for b in data.eval_batches(source, batch_size=8, transform=transform)]
    assert sizes == [(8, 64, 64, 3)] * 2


def test_damaged_records_are_named(tmp_path, encode):
    write("imagenette", tmp_path, encode, damage=(3,))
    settings = config("imagenette", tmp_path)
    source = data.make_source(settings, "train")
    (bad,) = (i for i, x in enumerate(source._records) if not x["image"].endswith(b"\xff\xd9"))
    message = rf"'imagenette train example {bad}' cannot be decoded"
    with pytest.raises(data.PictureError, match=message):
        source[bad]


@pytest.fixture
def shard(prepared, tmp_path):
    """A copy of the 12 records of CIFAR-10, to be damaged: (settings, file)."""
    shutil.copytree(prepared / "cifar10", tmp_path / "cifar10")
    (file,) = tmp_path.glob("cifar10/*/*train.array_record*")
    return config("cifar10", tmp_path, on_error="skip"), file


@pytest.mark.parametrize("share", [0.99, 0.5, 0.0, None])
def test_truncated_or_missing_shards_stop_the_run(shard, share):
    settings, file = shard
    source = data.make_source(settings, "train")
    if share is None:
        file.unlink()
    else:
        os.truncate(file, int(share * file.stat().st_size))
    message = (
        rf"^Shard '{file}' of data set 'cifar10' cannot be read: .*expected records 0 to 11 of "
        rf"'train' in it.*jssl.data.prepare cifar10 --data_dir={settings.data_dir}$"
    )
    with pytest.raises(UserError, match=message) as caught:
        source[7]
    assert not isinstance(caught.value, data.PictureError)  # so that nothing is skipped


def test_a_flipped_bit_in_a_shard_damages_one_record(shard):
    settings, file = shard
    record = data.make_source(settings, "train").encoded(7)["image"].data
    full = bytearray(file.read_bytes())
    full[full.index(record[100:200])] ^= 16
    file.write_bytes(full)
    source = data.make_source(settings, "train")
    message = rf"'cifar10 train example 7' cannot be read from shard '{file.name}': .*mismatch"
    with pytest.raises(data.PictureError, match=message):
        source[7]
    batches = data.train_batches(source, batch_size=12, seed=0)
    assert sorted(next(batches)["index"].tolist()) == [0, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10, 11]
    batches.close()


def test_unprepared_data_sets_name_the_command(tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        data.make_source(config("cifar10", tmp_path), "train")
    assert str(caught.value).endswith(
        f"Type python -m jssl.data.prepare cifar10 --data_dir={tmp_path}"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert default_data_dir() == str(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"--data_dir={tmp_path}/elsewhere$"):
        data.make_source(config("imagenette", ""), "train")


def test_other_file_formats_are_refused(tmp_path, encode):
    write("cifar10", tmp_path, encode)
    (info,) = tmp_path.glob("cifar10/*/dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    message = r"another file format; expected array_record.*--data_dir=.*_array_record"
    with pytest.raises(UserError, match=message):
        data.make_source(config("cifar10", tmp_path), "train")


def test_unknown_splits_are_refused(prepared):
    for split in ("trian", "train[:10%]+trian", "trian[:10%]"):
        with pytest.raises(UserError, match=r"has no split 'trian': did you mean 'train'\?"):
            data.make_source(config("cifar10", prepared, train_split=split), "train")


def test_fingerprints_differ_by_set_and_split(prepared):
    prints = {
        data.make_source(config(name, prepared), split).fingerprint()
        for name in SETS
        for split in ("train", "test")
    }
    assert len(prints) == 2 * len(SETS)


def test_any_name_of_tfds_is_accepted(tmp_path):
    with pytest.raises(UserError, match="jssl.data.prepare food101 --data_dir"):
        data.make_source(config("food101", tmp_path), "train")


def test_splits_that_share_records_are_refused_for_semi_supervised_training(prepared):
    """Of 12 records train[:6] and train[4:] share two; train[:6] and train[6:] none."""
    from helpers import small_config

    from jssl.data import semi_supervised

    config = small_config("noisy_student")
    config.data.name, config.data.data_dir = "cifar10", str(prepared)
    config.data.train_split = "train[:6]"
    config.noisy_student.update({"label_fraction": 1.0, "unlabeled_name": "cifar10"})
    labelled = data.make_source(config.data, "train")
    config.noisy_student.unlabeled_split = "train[4:]"
    with pytest.raises(UserError, match="2 examples of 'cifar10' are in the labelled split"):
        semi_supervised.split(config, labelled)
    config.noisy_student.unlabeled_split = "train[6:]"
    assert len(semi_supervised.split(config, labelled).rows) == 6
    config.noisy_student.unlabeled_split = "test"
    assert len(semi_supervised.split(config, labelled).rows) == 5


def test_a_name_with_a_version(prepared):
    result = data.make_source(config("cifar10:3.0.2", prepared), "train")
    assert len(result) == 12 and result.name == "cifar10:3.0.2"
    assert (
        result.fingerprint() == data.make_source(config("cifar10", prepared), "train").fingerprint()
    )
    assert len(data.make_source(config("cifar10:3.0.*", prepared), "test")) == 5
    assert len(data.make_source(config("imagenette:1.0.0", prepared), "test")) == 5
    assert len(data.make_source(config("imagenette/160px-v2:1.0.0", prepared), "train")) == 12
    for name, message in (
        ("cifar10:9.9.9", "not of a version that TFDS has: it has 3.0.2. Type cifar10 for"),
        ("cifar10:x", "is of version 'x': expected three numbers. Type cifar10:1.0.0"),
        ("cifar10:", "is of version ''"),
        ("cifr10:3.0.2", "did you mean 'cifar10'"),
    ):
        with pytest.raises(UserError, match=message):
            data.make_source(config(name, prepared), "train")


def test_class_names_come_from_the_builder(prepared):
    result = data.make_source(config("imagenet2012", prepared), "test")
    assert len(result.class_names) == 1000 and result.class_names[0] == "n01440764"
    assert data.describe(result) == "imagenet2012: 5 pictures of 1000 classes"
    # Those of CIFAR-10 come with its download, which has not taken place here.
    assert data.make_source(config("cifar10", prepared), "train").class_names is None
    assert data.make_source(config("stl10", prepared), "train").class_names == ()
