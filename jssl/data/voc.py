"""PASCAL VOC 2007 for multi-label classification: each image shows one or more of twenty classes.

Prepared by TFDS, `python -m jssl.data.prepare voc/2007`: 2,501 train, 2,510 validation and 4,952
test images, with a box for each object. Labels are as in the challenge's ImageSets/Main lists: 1
present, -1 only difficult objects (ignored), 0 absent.
"""

import functools
from typing import Any

import numpy as np

from jssl.data.tfds_source import TfdsSource, default_data_dir, make_builder, prepare_command
from jssl.errors import UserError

NAME = "voc/2007"
SIZES = {"train": 2501, "validation": 2510, "test": 4952}
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
           "train", "tvmonitor")  # fmt: skip


def voc_labels(classes: Any, difficult: Any, *, num_classes: int = len(CLASSES)) -> np.ndarray:
    """Converts the objects of an image to one label a class.

    Args:
        classes: int [n], of each object.
        difficult: bool [n].
        num_classes: K.

    Returns:
        int32 [K]: 1 if an object of the class is not difficult, -1 if all are, 0 if there is none.

    Example:
        >>> voc_labels([2, 0, 2], [True, True, False], num_classes=4)
        array([-1,  0,  1,  0], dtype=int32)

    Reference:
        Everingham et al., The PASCAL Visual Object Classes challenge, IJCV 2010, section 3.2.
    """
    labels = np.zeros(num_classes, np.int32)
    classes, difficult = np.asarray(classes, int), np.asarray(difficult, bool)
    labels[classes] = -1
    labels[classes[~difficult]] = 1
    return labels


class VocSource(TfdsSource):
    """VOC 2007 as a source whose labels are int32 [20], see `voc_labels`.

    Args:
        split: 'train', 'validation', 'test', or 'train+validation'.
        data_dir: where it was prepared; '' means TFDS's usual folder.

    Raises:
        UserError: not prepared (names the command), or an unknown split.

    Example:
        source = VocSource('train+validation', data_dir='/data')
        source[0]['label'].shape, source.labels.shape       # (20,), (5011, 20)
    """

    def __init__(self, split: str, *, data_dir: str = "", on_error: str = "stop"):
        super().__init__(NAME, split, data_dir=data_dir, on_error=on_error)
        self.num_classes, self.class_names = len(CLASSES), CLASSES
        parts = [part.strip() for part in split.split("+")]
        self.whole = sum(SIZES[part] for part in parts if part in SIZES)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        record, example = self._records[int(index)], super().encoded(index)
        objects = record["objects"]
        return {**example, "label": voc_labels(objects["label"], objects["is_difficult"])}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Returns the labels, int32 [M,20]."""
        return np.stack([self.encoded(i)["label"] for i in range(len(self))])


def voc_missing(data_dir: str = "") -> str:
    """Returns '' if VOC 2007 is prepared, else the command to type."""
    try:
        prepared = make_builder(NAME, data_dir).is_prepared()
    except UserError as error:
        return str(error)
    command = prepare_command(NAME, data_dir or default_data_dir())
    return "" if prepared else f"VOC 2007: type {command}"
