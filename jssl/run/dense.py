"""Sources and transforms of a run that learns from boxes or masks."""

from typing import Any

from ml_collections import ConfigDict

from jssl import data, methods
from jssl.data.dense_transform import DetectionTransform, SegmentationTransform, WholePicture
from jssl.errors import UserError

UNREAD = {"data.held_out": 0, "monitor.every_epochs": 0}


def sources(config: ConfigDict) -> tuple[Any, Any, Any, None]:
    """Returns the examples to train on (twice) and to test on, and that none are held out.

    Raises:
        UserError: a setting that such a run does not read, or what is missing.
    """
    kind = methods.get(config.method).data.dense
    for key, value in UNREAD.items():
        section, name = key.split(".")
        if config[section][name] != value:
            raise UserError(
                f"Method '{config.method}' has no {name} examples or monitor while it trains, "
                f"found {key}={config[section][name]}. Type --config.{key}={value}."
            )
    train = data.make_dense_source(config.data, "train", kind)
    test = data.make_dense_source(config.data, "test", kind)
    transform_of(config, train=False), transform_of(config, train=True)  # refuse wrong sizes
    return train, train, test, None


def train_transform(config: ConfigDict, source: Any) -> Any:
    """Returns the transform of training examples."""
    return transform_of(config, train=True, difficult=source.train_difficult)


def test_transform(config: ConfigDict) -> Any:
    """Returns the transform of test examples, without randomness."""
    return transform_of(config, train=False)


def transform_of(config: ConfigDict, *, train: bool, difficult: bool = True) -> Any:
    """Returns a transform of the method's kind, from `augment.size` and the method's section."""
    kind, side = methods.get(config.method).data.dense, config.augment.size
    section = config[config.method]
    if kind == "masks":
        crop = SegmentationTransform(side, scales=tuple(section.scales))
        return data.Decoded(crop if train else WholePicture(section.test_size or side), kind)
    if train:
        transform = DetectionTransform(
            tuple(section.sides), longest=side, canvas=(side, side), difficult=difficult
        )
    else:
        transform = DetectionTransform.test(section.test_side, longest=side, canvas=(side, side))
    return data.Decoded(transform, kind)
