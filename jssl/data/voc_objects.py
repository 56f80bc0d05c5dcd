"""PASCAL VOC 2007 and 2012 with their boxes, prepared by TFDS; it has no masks.

VOC 2012's test split has no boxes: its annotations are not public.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.data.decode import PictureError
from jssl.data.dense_files import MAX_OBJECTS, check_inside
from jssl.data.tfds_source import TfdsSource
from jssl.data.voc import CLASSES
from jssl.errors import UserError

NAMES = ("voc/2007", "voc/2012")


def voc_boxes(record: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Returns the boxes of a record of TFDS in pixels.

    TFDS divides the numbers of the file, which count pixels from 1, by height and width. As the
    last pixel belongs to the box, 1 is subtracted from xmin and ymin only.

    Args:
        record: its `objects` have `bbox` [n,4], (ymin, xmin, ymax, xmax) in [0, 1].
        height, width: of the picture, in pixels.

    Returns:
        float32 [n,4], (x1, y1, x2, y2) in pixels from 0.

    Example:
        >>> record = {'objects': {'bbox': [[11 / 40, 1 / 50, 30 / 40, 50 / 50]]}}
        >>> voc_boxes(record, 40, 50).tolist()
        [[0.0, 10.0, 50.0, 30.0]]
    """
    bbox = np.asarray(record["objects"]["bbox"], np.float64).reshape(-1, 4)
    y1, x1, y2, x2 = np.round(bbox * np.array([height, width, height, width])).T
    return np.stack([x1 - 1, y1 - 1, x2, y2], axis=1).astype(np.float32)


class VocBoxSource(TfdsSource):
    """VOC 2007 or 2012 of TFDS with boxes, as `jssl.data.dense_folder.DenseSource`.

    Args:
        name: 'voc/2007' or 'voc/2012'.
        split: 'train', 'validation', 'test' (2007 only), or 'train+validation'.
        data_dir: where it was prepared; '' means TFDS's usual folder.

    Raises:
        UserError: another name, not prepared (names the command), or a split without boxes.
    """

    train_difficult = True

    def __init__(self, name: str, split: str, *, data_dir: str = ""):
        if name not in NAMES:
            raise UserError(f"'{name}' is none of the sets with VOC's boxes: {', '.join(NAMES)}.")
        if name == "voc/2012" and "test" in split:
            raise UserError("VOC 2012's test split has no boxes: expected train or validation.")
        super().__init__(name, split, data_dir=data_dir)
        self.num_classes, self.class_names = len(CLASSES), CLASSES

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        example, objects = super().encoded(index), self._records[int(index)]["objects"]
        height, width = example["image"].size()
        boxes = voc_boxes({"objects": objects}, height, width)
        name = example["image"].name
        if len(boxes) > MAX_OBJECTS:
            raise PictureError(
                f"'{name}' has {len(boxes)} objects: expected {MAX_OBJECTS} at most."
            )
        check_inside(name, boxes, height, width)
        label, difficult = objects["label"], objects["is_difficult"]
        return {
            **example,
            "boxes": boxes,
            "label": np.asarray(label, np.int32),
            "difficult": np.asarray(difficult, bool),
        }

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """Returns boxes, label and difficult of a picture; of the picture only its head is read."""
        example = self.encoded(index)
        return {key: example[key] for key in ("boxes", "label", "difficult")}
