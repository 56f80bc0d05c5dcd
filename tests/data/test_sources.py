"""Sources in memory, and the protocol."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.errors import UserError


def config(**values):
    return ConfigDict({**DEFAULTS, **values})


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("photos", 16, (3200, 1200)), ("digits", 10, (1438, 359)), ("synthetic", 10, (1024, 256))],
)
def test_protocol(name, classes, sizes):
    for split, size in zip(("train", "test"), sizes, strict=True):
        source = data.make_source(config(name=name), split)
        assert isinstance(source, data.Source)
        assert (source.name, source.num_classes, len(source)) == (name, classes, size)
        example = source[size - 1]
        assert example["image"].shape == source.image_shape == (32, 32, 3)
        assert example["image"].dtype == np.uint8
        assert example["label"].dtype == example["index"].dtype == np.int32
        assert example["index"] == size - 1
        labels = [int(source[i]["label"]) for i in range(size)]
        assert sorted(set(labels)) == list(range(classes))
    train, test = (data.make_source(config(name=name), s) for s in ("train", "test"))
    assert train.fingerprint() != test.fingerprint()
    assert train.fingerprint() == data.make_source(config(name=name), "train").fingerprint()


def test_digits_equal_scikit_learn():
    from sklearn.datasets import load_digits

    digits = load_digits()
    test = data.digits_source("test")
    image = test[1]["image"]
    assert test[1]["label"] == digits.target[9]
    np.testing.assert_array_equal(image[::4, ::4, 0], np.rint(digits.images[9] * 255 / 16))
    np.testing.assert_array_equal(image[3::4, 3::4, 2], image[::4, ::4, 0])


def test_synthetic_can_be_learned_but_not_from_raw_pixels():
    train, test = (data.synthetic_source(s) for s in ("train", "test"))

    def error(features):
        a, b = features(train.images), features(test.images)
        near = np.argmin((a**2).sum(1) - 2 * b @ a.T, axis=1)  # nearest in squared distance
        return np.mean(train.labels[near] != test.labels)

    def energy(images):
        """The share of each direction in the power spectrum, which determines the class."""
        grey = images.astype(np.float64).mean(axis=3)
        power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
        f = np.fft.fftfreq(32)
        angle = np.arctan2(f[:, None], f[None]) % np.pi
        bins = [
            np.abs((angle - k * np.pi / 10 + np.pi / 2) % np.pi - np.pi / 2) < 0.16
            for k in range(10)
        ]
        features = np.stack([power[:, b].sum(axis=1) for b in bins], axis=1)
        return features / features.sum(axis=1, keepdims=True)

    assert error(energy) < 0.2
    assert error(lambda images: images.reshape(len(images), -1).astype(np.float32)) > 0.5


def test_array_source_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"uint8 \[M,H,W,C\]; found float32 \[2, 4, 4, 3\]"):
        data.ArraySource("x", np.zeros((2, 4, 4, 3), np.float32), [0, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"labels must be \[M\] with M=2; found \[3\]"):
        data.ArraySource("x", np.zeros((2, 4, 4, 3), np.uint8), [0, 1, 1], num_classes=2)


@pytest.mark.parametrize(
    ("values", "split", "message"),
    [
        ({"name": "cifr10"}, "train", r"Unknown data set 'cifr10': did you mean 'cifar10'\?"),
        ({"name": "fotos"}, "train", r"did you mean 'photos'\?.*prepare --list"),
        ({"name": "zzzzzzzz"}, "train", r"'zzzzzzzz': Choices: photos, digits"),
        ({"on_error": "ignore"}, "train", "data.on_error='ignore': Choices: skip, stop"),
        ({}, "trian", r"Unknown split 'trian': did you mean 'train'\?"),
        ({"tile": 31}, "train", "found data.tile=31"),
        ({"name": "folder"}, "train", "data.data_dir is empty. Type --config.data.data_dir=FOLDER"),
        ({"name": "imagenette/180px"}, "train", r"did you mean 'imagenette/160px'\?"),
    ],
)
def test_config_errors(values, split, message):
    with pytest.raises(UserError, match=message):
        data.make_source(config(**values), split)


def test_unknown_host_crop():
    settings = config(host_crop="tff")
    with pytest.raises(UserError, match=r"host crop 'tff': did you mean 'tf'\?"):
        data.train_transform(settings, data.make_source(settings, "test"), size=16)


def test_transforms_follow_the_source_and_the_config():
    settings = config(name="synthetic", num_examples=8)
    source = data.make_source(settings, "train")
    assert data.train_transform(settings, source, size=24) is None
    assert data.eval_transform(settings, source, size=32) is None
    assert data.eval_transform(settings, source, size=24) == data.CentreCrop(24, resize=24)
    source.image_shape = None  # as of pictures of many sizes
    assert data.train_transform(settings, source, size=24) == data.CentreCrop(24, resize=24)
    settings.image_size = 40
    assert data.train_transform(settings, source, size=24) == data.CentreCrop(40, resize=40)
    assert data.eval_transform(settings, source, size=224) == data.CentreCrop(224, resize=256)
    settings.host_crop = "torchvision"
    crop = data.train_transform(settings, source, size=24, views=3, area=(0.2, 1.0))
    assert crop == data.HostCrop(24, views=3, sampler="torchvision", area=(0.2, 1.0))
    example = crop({"image": np.zeros((50, 60, 3), np.uint8)}, np.random.default_rng(0))
    assert example["image"].shape == (3, 24, 24, 3)
