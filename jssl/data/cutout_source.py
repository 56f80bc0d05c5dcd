"""The offline set of detection and segmentation in memory: no folder, no download."""

import functools
import hashlib
from typing import Any

import numpy as np

from jssl.data import cutouts
from jssl.errors import UserError, nearest


class CutoutSource:
    """A split of `jssl.data.cutouts`, with the examples of a `DenseSource`.

    Args:
        split: 'train', 'val' or 'test'.
        size: side of the pictures in pixels, at least 48.
        masks: whether examples have a mask.

    Raises:
        UserError: an unknown split, or a smaller side.

    Example:
        >>> source = CutoutSource('val', size=64)
        >>> len(source), source[0]['image'].shape, source.objects(2)['label'].shape
        (50, (64, 64, 3), (0,))
    """

    train_difficult = True
    on_error = "stop"  # never used: nothing is decoded

    def __init__(self, split: str, *, size: int = 128, masks: bool = False):
        if split not in cutouts.SPLITS:
            raise UserError(f"Unknown split '{split}': {nearest(split, cutouts.SPLITS)}.")
        if size < cutouts.MIN_SIZE:
            raise UserError(
                f"Pictures of cut-outs have a side of at least {cutouts.MIN_SIZE} pixels, found "
                f"{size}. Type --config.data.image_size=128."
            )
        self.name, self.class_names = "cutouts", cutouts.CLASSES
        self.num_classes, self.image_shape = len(cutouts.CLASSES), (size, size, 3)
        self._split, self._size, self._masks = split, size, masks

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures, as `jssl.data.cutouts.write` calls them."""
        return tuple(f"{self._split}_{index:06d}" for index in range(len(self)))

    def __len__(self) -> int:
        return cutouts.IMAGES[self._split]

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """Returns boxes, label and difficult of a picture."""
        scene = _scene(self._split, range(len(self))[index], self._size)
        return {
            "boxes": scene.boxes.astype(np.float32),
            "label": scene.labels.astype(np.int32),
            "difficult": scene.difficult.astype(bool),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an example as those of `DenseSource`."""
        row = range(len(self))[index]
        scene = _scene(self._split, row, self._size)
        example = {"image": scene.image, **self.objects(row), "index": np.int32(row)}
        return {**example, "mask": scene.mask} if self._masks else example

    def fingerprint(self) -> str:
        """Returns a hash of the recipe; it makes the same pictures everywhere."""
        recipe = f"cutouts {cutouts.VERSION} {self._split} {len(self)} {self._size}"
        return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=sum(cutouts.IMAGES.values()))
def _scene(split: str, index: int, size: int) -> cutouts.Scene:
    return cutouts.scene(split, index, size=size)
