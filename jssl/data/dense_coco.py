"""Reads boxes of an own folder in the layout of COCO.

coco/annotations/instances_train2017.json
coco/train2017/1.jpg
"""

from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import Picture
from jssl.data.dense_files import annotation, check_inside, inside, read_json
from jssl.data.dense_folder import DenseSource
from jssl.errors import UserError

# COCO rounds to 2 decimals, so that a box may end this far outside; it is clipped.
ROUNDING = 0.05


class CocoFolder(DenseSource):
    """A split of a folder in the layout of COCO; boxes only.

    A crowd (iscrowd) counts as difficult. Classes are those of the file, by their ids.

    Args:
        root: holds annotations/instances_SPLIT.json, and the pictures in SPLIT/ or images/.
        split: such as 'train2017'.

    Raises:
        UserError: no such file, a file that is not of this form, or an annotation that is refused.
    """

    train_difficult = False

    def __init__(self, root: str | Path, split: str):
        self.root = Path(root).expanduser()
        self._file = inside(self.root, "annotations", f"instances_{split}.json")
        if not self._file.is_file():
            raise UserError(
                f"No file '{self._file}'. Unpack annotations_{split}.zip, or "
                f"annotations_trainval2017.zip for COCO, so that '{self.root}' holds annotations."
            )
        folder = split if inside(self.root, split).is_dir() else "images"
        if not inside(self.root, folder).is_dir():
            raise UserError(f"No folder '{self.root / split}': expected the pictures of {split}.")
        content = read_json(self._file)
        try:
            categories = {c["id"]: str(c["name"]) for c in content["categories"]}
            pictures = {p["id"]: str(p["file_name"]) for p in content["images"]}
            objects: dict[Any, list] = {key: [] for key in pictures}
            for one in content["annotations"]:
                objects[one["image_id"]].append(self._object(one, categories))
            class_names = [categories[key] for key in sorted(categories)]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"'{self._file}' is no list of instances of COCO: {type(error).__name__} {error}. "
                "Expected images, annotations and categories that refer to each other."
            ) from error
        order = sorted(pictures, key=lambda key: pictures[key])
        self._paths = [inside(self.root, folder, pictures[key]) for key in order]
        for path in self._paths:
            if not path.is_file():
                raise UserError(f"Picture '{path}' of '{self._file}' is missing. Copy it there.")
        annotations = []
        for key in order:
            boxes, names, crowd = zip(*objects[key], strict=True) if objects[key] else ((), (), ())
            where = f" of '{pictures[key]}'"
            annotations.append(annotation(self._file, boxes, names, crowd, where))
        if len(set(class_names)) < len(class_names):
            raise UserError(f"'{self._file}' has two categories of one name: expected one each.")
        paths = [pictures[key] for key in order]
        super().__init__(f"coco:{self.root.name}", class_names, paths, annotations)

    def _object(self, one: Any, categories: dict[Any, str]) -> tuple[tuple[float, ...], str, bool]:
        x, y, width, height = (float(v) for v in self._four(one["bbox"]))
        box = (x, y, x + width, y + height)
        return box, categories[one["category_id"]], bool(one.get("iscrowd", 0))

    def _four(self, bbox: Any) -> list:
        numbers = isinstance(bbox, list) and all(isinstance(v, int | float) for v in bbox)
        if not numbers or len(bbox) != 4 or not all(abs(v) < 1e9 for v in bbox):
            raise UserError(f"'{self._file}' has bbox {str(bbox)[:80]}: expected four numbers.")
        return bbox

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        picture = Picture.read(self._path(index))
        height, width = picture.size()
        objects = self.objects(index)
        boxes = objects["boxes"]
        clipped = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        if not np.all(np.abs(clipped - boxes) <= ROUNDING):
            check_inside(self._described(index), boxes, height, width)
        return {"image": picture, **objects, "boxes": clipped, "index": np.int32(index)}

    def _path(self, index: int) -> Path:
        return self._paths[index]

    def _described(self, index: int) -> str:
        return f"{self._file}: {self.names[index]}"
