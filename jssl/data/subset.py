"""Some examples of a source, as a source."""

import hashlib
from typing import Any

import numpy as np


class Rows:
    """Some rows of a source, as a source.

    Attributes:
        source: the whole.
        rows: int64 [M], which.

    Example:
        >>> from jssl.data.sources import synthetic_source
        >>> part = Rows(synthetic_source('test', size=8, num_examples=40), np.array([3, 1]))
        >>> len(part), int(part[0]['label']), int(part[0]['index'])
        (2, 3, 0)
    """

    def __init__(self, source: Any, rows: np.ndarray):
        self.source, self.rows = source, np.asarray(rows, np.int64)
        self.name, self.num_classes = source.name, source.num_classes
        self.class_names = getattr(source, "class_names", None)
        self.image_shape, self.on_error = source.image_shape, source.on_error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[int(self.rows[index])], "index": np.int32(index)}

    def encoded(self, index: int) -> dict[str, Any]:
        """The example, its picture not decoded where the source can leave it so."""
        read = getattr(self.source, "encoded", self.source.__getitem__)
        return {**read(int(self.rows[index])), "index": np.int32(index)}

    def fingerprint(self) -> str:
        """The source's, and that of the rows."""
        rows = hashlib.sha256(self.rows.tobytes()).hexdigest()[:12]
        return f"{self.source.fingerprint()}[{len(self)} rows {rows}]"

    def description(self) -> str:
        """The source's, and how many of it."""
        return f"{len(self):,} of the examples of {describe(self.source)}"


def describe(source: Any) -> str:
    """What was read, in one line; the source's own words where it has some.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> describe(photos_source('test'))
        'photos: 1,200 pictures of 16 classes'
    """
    if hasattr(source, "description"):
        return source.description()
    labels = f"of {source.num_classes} classes" if source.num_classes else "without labels"
    return f"{source.name}: {len(source):,} pictures {labels}"
