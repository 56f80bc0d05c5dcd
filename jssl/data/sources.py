"""Sources of examples held in memory, and the protocol that every source follows."""

import functools
import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jssl.data import photos
from jssl.errors import UserError

Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """What the pipeline needs of a data set: random access to examples, a name, a fingerprint.

    Attributes:
        name: of the data set, as in `config.data.name`.
        num_classes: number of labels; 0 when there are none (every label is then -1).
    """

    name: str
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def fingerprint(self) -> str: ...


class ArraySource:
    """Examples that lie in memory: images uint8 [M,H,W,3], labels int32 [M].

    Example:
        >>> source = ArraySource('mine', np.zeros((2, 4, 4, 3), np.uint8), [0, 1], num_classes=2)
        >>> len(source), source[1]['image'].shape, int(source[1]['label'])
        (2, (4, 4, 3), 1)
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Any,
        *,
        num_classes: int,
        class_names: tuple[str, ...] = (),
    ):
        labels = np.asarray(labels, np.int32)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images must be uint8 [M,H,W,3]; found {images.dtype} {list(images.shape)}"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be [M] with M={len(images)}; found {list(labels.shape)}"
            )
        self.name = name
        self.num_classes = num_classes
        self.class_names = class_names
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {
            "image": self.images[index],
            "label": self.labels[index],
            "index": np.int32(index),
        }

    def fingerprint(self) -> str:
        """Hexadecimal digits that change when any image or label changes."""
        return _digest(self)


@functools.lru_cache(maxsize=8)
def _digest(source: ArraySource) -> str:
    digest = hashlib.sha256(f"{source.name} {source.images.shape}".encode())
    digest.update(np.ascontiguousarray(source.images))
    digest.update(source.labels)
    return digest.hexdigest()[:16]


def photos_source(split: str, *, tile: int = 32) -> ArraySource:
    """The embedded photograph tiles; see `jssl.data.photos`.

    Example:
        >>> source = photos_source('test', tile=32)
        >>> source.name, len(source), source.num_classes
        ('photos', 1200, 16)
    """
    images, labels = photos.load(split, tile)
    return ArraySource(
        "photos",
        images,
        labels,
        num_classes=len(photos.PHOTOS),
        class_names=photos.CLASS_NAMES,
    )
