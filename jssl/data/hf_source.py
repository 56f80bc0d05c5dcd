"""A data set of Hugging Face `datasets` on the disk, as a source; see `jssl.data.hf_files`.

The pictures are decoded by jssl, from their bytes.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import Picture, PictureError
from jssl.data.hf_files import choose_split, find_splits, library, open_files
from jssl.data.items import MAX_CLASSES, content_of, reason_of, without_limit
from jssl.data.subset import evenly_spaced
from jssl.errors import UserError, nearest

HASHED = 64  # examples whose content is in the fingerprint
NO_LABELS = "none"  # value of `config.data.label_column`


class HfSource:
    """One split of a Hugging Face data set on the disk.

    Args:
        name: 'hf', or 'hf:OWNER/NAME[:CONFIG]' of a data set in the cache.
        wanted: 'train', 'probe' or 'test'.
        split: name of the split; '' for train, and val, test or validation.
        data_dir: the folder, or the cache; '' for that of `datasets`.
        image_column: of the pictures; '' for the only column of pictures.
        label_column: of the labels; '' for the only ClassLabel, or else the integers in 'label';
            'none' for no labels.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        **reading: the keys of `Picture.read`.

    Attributes:
        labels: int32 [M], -1 for none.

    Raises:
        UserError: no such data set, split or column, or several columns to choose from.
    """

    image_shape = None  # pictures may differ in size

    def __init__(
        self,
        name: str,
        wanted: str,
        split: str = "",
        *,
        data_dir: str = "",
        image_column: str = "",
        label_column: str = "",
        on_error: str = "stop",
        **reading: Any,
    ):
        folder, files = find_splits(name, data_dir)
        self.name = f"hf:{folder.name}" if name == "hf" else name
        self.on_error, self._reading = on_error, reading
        self._split = choose_split(files, wanted, split, name=self.name)
        table = open_files(files[self._split])
        self._image = _image_column(table, image_column, self.name)
        label = _label_column(table, label_column, self.name)
        _validate(table, [self._image, *([label] if label else [])], files[self._split][0].parent)
        self.labels, self.num_classes, self.class_names = _labels_of(table, label, self.name)
        if self.num_classes and self.class_names is None:  # a split may lack some of the classes
            tables = [open_files(paths) for key, paths in files.items() if key != self._split]
            counts = [_labels_of(x, label, self.name)[1] for x in tables if label in x.features]
            self.num_classes = max([self.num_classes, *counts])
        self._description = f"{self.name} {self._split}: {len(table):,} pictures in column " + (
            f"'{self._image}', {self.num_classes} classes in column '{label}'"
            if self.num_classes
            else f"'{self._image}' without labels"
        )
        rows = table.select_columns([self._image])
        if isinstance(table.features[self._image], library().Image):
            rows = rows.cast_column(self._image, library().Image(decode=False))
        self._rows = rows

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        index = int(index)
        stored = self._rows[index][self._image]
        data, path = stored, None
        if isinstance(stored, dict):
            data, path = stored.get("bytes"), stored.get("path")
        name = f"{self.name} {self._split} example {index}" + (f" ({path})" if path else "")
        if data is not None:
            picture = Picture(data, name, **without_limit(self._reading))
        elif path and Path(path).is_absolute():
            picture = Picture.read(path, **self._reading)
        else:
            raise PictureError(f"Picture '{name}' is not stored: expected its bytes.")
        return {"image": picture, "label": self.labels[index], "index": np.int32(index)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self._split} {len(self)}".encode())
        digest.update(f"{self.class_names}".encode() + self.labels.tobytes())
        for row in evenly_spaced(len(self), HASHED) if len(self) else ():
            digest.update(content_of(self, int(row)))
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """Returns a hash of the name, split, labels, and the content of 64 examples at most."""
        return self._digest

    def description(self) -> str:
        """Returns one line on what was read."""
        return self._description


def _image_column(table: Any, typed: str, name: str) -> str:
    datasets, features = library(), table.features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if typed:
        kind = features.get(typed)
        binary = isinstance(kind, datasets.Value) and "binary" in kind.dtype
        stored = isinstance(kind, dict) and {"bytes", "path"} <= set(kind)
        if typed in images or binary or stored:
            return typed
        known = f"it is {_shown(kind)}" if typed in features else nearest(typed, features)
        raise UserError(
            f"Data set '{name}' has no pictures in the column '{typed}' ({known}): expected a "
            "column of Image, or of the bytes of files. Type --config.data.image_column=COLUMN."
        )
    if len(images) == 1:
        return images[0]
    listed = ", ".join(f"{key} ({_shown(kind)})" for key, kind in features.items())
    raise UserError(
        f"Data set '{name}' has {len(images)} columns of pictures among {listed}: expected one. "
        f"Type --config.data.image_column={images[0] if images else 'COLUMN'}."
    )


def _shown(kind: Any) -> str:
    return getattr(kind, "dtype", None) or type(kind).__name__


def _label_column(table: Any, typed: str, name: str) -> str:
    """Returns the name of the column of labels; '' for none."""
    datasets, features = library(), table.features

    def whole(key: str) -> bool:
        kind = features.get(key)
        return isinstance(kind, datasets.Value) and kind.dtype.lstrip("u").startswith("int")

    classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if typed == NO_LABELS:
        return ""
    if typed and not (typed in classes or whole(typed)):
        known = (
            f"it is {_shown(features[typed])}" if typed in features else nearest(typed, features)
        )
        raise UserError(
            f"Data set '{name}' has no labels in the column '{typed}' ({known}): expected a "
            "ClassLabel or whole numbers. Type --config.data.label_column=COLUMN, or none."
        )
    if not typed and len(classes) > 1:
        raise UserError(
            f"Data set '{name}' has {len(classes)} columns of labels: {', '.join(classes)}. Type "
            f"--config.data.label_column={classes[0]}, or none."
        )
    return typed or (classes[0] if classes else "label" if whole("label") else "")


def _validate(table: Any, columns: list[str], folder: Path) -> None:
    """Checks the offsets in the mapped files, which a damaged one could lead anywhere."""
    try:
        table.data.table.select(columns).validate(full=True)
    except Exception as error:  # pyarrow's
        reason = reason_of(error)
        raise UserError(
            f"The data set in '{folder}' is damaged: {reason}. Copy or load it again."
        ) from error


def _labels_of(
    table: Any, column: str, name: str
) -> tuple[np.ndarray, int, tuple[str, ...] | None]:
    """Returns the labels, the number of classes and their names."""
    none = np.full(len(table), -1, np.int32), 0, ()
    if not column:
        return none
    stored = table.select_columns([column]).with_format("arrow")[:].column(0)
    labels = stored.fill_null(-1).to_numpy().astype(np.int64)
    if labels.max(initial=-1) < 0 and labels.min(initial=-1) >= -1:
        return none  # as of a hidden test split
    names = getattr(table.features[column], "names", None)
    number = len(names) if names else int(labels.max(initial=-1)) + 1
    wrong = np.flatnonzero((labels < -1) | (labels >= min(number, 2**31)))
    if not names and number > MAX_CLASSES:
        wrong = np.array([labels.argmax()])
    if len(wrong):
        raise UserError(
            f"Data set '{name}', example {wrong[0]}: label {labels[wrong[0]]} in the column "
            f"'{column}'; expected the number of a class, from 0, or -1 for none. Type "
            "--config.data.label_column=COLUMN, or none."
        )
    return labels.astype(np.int32), number, tuple(names) if names else None


def has_split(name: str, data_dir: str, split: str) -> bool:
    """Whether a data set has a split for 'test'; a name that was typed is not looked up here.

    Args:
        name, data_dir: as of `HfSource`.
        split: `config.data.test_split`.
    """
    files = find_splits(name, data_dir)[1]
    try:
        choose_split(files, "test", split, name=name)
    except UserError:
        return bool(split)
    return True
