"""A Python object with `__len__` and `__getitem__` as a source, and its use as data of a run.

A run from an object has data.name='python' in its config. The object itself is not stored: within
`provided(object)` `make_source` returns it, elsewhere it says so.
"""

import contextlib
import contextvars
import copy
import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jssl.data.decode import Picture, PictureError
from jssl.data.items import EXPECTED, MAX_CLASSES, content_of, picture_of, split_item
from jssl.data.sources import Source
from jssl.data.subset import evenly_spaced
from jssl.errors import UserError

SPLITS = ("train", "probe", "test")
HASHED = 64  # items whose content is in the fingerprint
REPEATED = 8  # of these, items that are read again: they must not be random
_provided: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar(
    "jssl_provided_data", default=None
)


class PythonSource:
    """An object with `__len__` and `__getitem__` as a source, such as a torch Dataset or a list.

    Its items are pictures, pairs (picture, label) or mappings; a picture is one of Pillow, an
    array uint8 [H,W,3] or [H,W], a path, or the bytes of a file. Paths and bytes are decoded by
    jssl, only when needed. Several threads call `__getitem__` at once (`data.threads`), so it must
    not change the object; and the item of an index must be the same every time.

    Args:
        items: the object.
        name: of the data set; that of the object's type by default.
        class_names: by label. By default those of the object: of torchvision's `classes`, or of
            the ClassLabel of a Hugging Face Dataset.
        num_classes: if the names are unknown; 0: no labels. If None, all items are read once.
        image, label: keys of items that are mappings; with `label=None` no labels are read.
        on_error: what the pipeline does with an item that cannot be read: 'stop' or 'skip'.
        **reading: the keys of `Picture.read`.

    Attributes:
        labels: int32 [M], if all items were read.

    Raises:
        UserError: no such object, an item of another kind, or items that are random.

    Example:
        >>> source = PythonSource([(np.zeros((8, 8, 3), np.uint8), i % 2) for i in range(4)])
        >>> source.name, len(source), source.num_classes, int(source[1]['label'])
        ('python:list', 4, 2, 1)
    """

    image_shape = None  # pictures may differ in size

    def __init__(
        self,
        items: Any,
        *,
        name: str = "",
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        image: str = "image",
        label: str | None = "label",
        on_error: str = "stop",
        **reading: Any,
    ):
        self.name = f"python:{name or type(items).__name__}"
        self.on_error, self._reading = on_error, reading
        self._items, self._image, self._label = items, image, label
        self._length = _length(items)
        self.num_classes = 0
        self.class_names: tuple[str, ...] | None = ()
        if label is not None and self._length:
            self._read_classes(class_names, num_classes)
        self._fingerprint = self._digest()

    def _read_classes(self, names: Sequence[str] | None, number: int | None) -> None:
        if names is None and number is None:
            names = _names_of(self._items, self._label)
        if names is not None:
            if isinstance(names, str) or number not in (None, len(names)):
                raise UserError(
                    f"Data '{self.name}' has class_names={names!r} and num_classes={number}: "
                    "expected a list of names, and their number or none."
                )
            self.class_names, number = tuple(map(str, names)), len(names)
        elif number is None:
            number = self._count_classes()
        if number < 0:
            raise UserError(f"Data '{self.name}' has num_classes={number}: expected 0 or more.")
        self.num_classes = number
        if names is None and number:
            self.class_names = None

    def _count_classes(self) -> int:
        """Reads the labels of all items; returns the number of classes."""
        if self._label_of(0) is None:
            return 0
        found = (self._label_of(i) for i in range(self._length))
        self.labels = np.array([-1 if label is None else label for label in found], np.int32)
        largest = int(self.labels.max())
        if largest >= MAX_CLASSES:
            at = int(self.labels.argmax())
            raise UserError(
                f"{self._where(at)} has the label {largest:,}: expected the number of a class, "
                f"below {MAX_CLASSES:,}. Pass jssl.data.PythonSource(..., num_classes=N) for more."
            )
        return largest + 1

    def _label_of(self, index: int) -> int | None:
        try:
            return self._split(index)[1]
        except PictureError:  # the run names it, or replaces it, see data.on_error
            return -1

    def _where(self, index: int) -> str:
        return f"Item {index} of '{self.name}'"

    def _split(self, index: int) -> tuple[Any, int | None]:
        """Returns the picture and the label of an item."""
        where = self._where(index)
        read = getattr(self._items, "encoded", self._items.__getitem__)
        try:
            item = read(index)
        except PictureError:
            raise
        except Exception as error:
            raise PictureError(f"{where} raises {type(error).__name__}: {error}.") from error
        return split_item(item, image=self._image, label=self._label, where=where)

    def __len__(self) -> int:
        return self._length

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]`; the image of a path or of bytes is a `Picture`."""
        index = int(index)
        value, label = self._split(index)
        picture = picture_of(value, self._where(index), **self._reading)
        if label is None or not self.num_classes:
            label = -1
        if label >= self.num_classes > 0:
            raise UserError(
                f"{self._where(index)} has the label {label}, but there are {self.num_classes} "
                f"classes: expected 0 to {self.num_classes - 1}."
            )
        return {"image": picture, "label": np.int32(label), "index": np.int32(index)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        if isinstance(example["image"], Picture):
            example["image"] = example["image"].pixels()
        return example

    def _digest(self) -> str:
        rows = evenly_spaced(self._length, HASHED).tolist() if self._length else []
        digest = hashlib.sha256(f"{self._length} {self.num_classes}".encode())
        contents = [content_of(self, row) for row in rows]
        for row, content in list(zip(rows, contents, strict=True))[
            :: max(1, len(rows) // REPEATED)
        ]:
            if content != content_of(self, row):
                raise UserError(
                    f"{self._where(row)} is another each time it is read: expected the same, as "
                    "jssl augments by itself and resumes exactly. Leave random transforms out."
                )
        digest.update(b"".join(contents))
        if hasattr(self, "labels"):
            digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """Returns a hash of the length and classes, and of the content of 64 items at most.

        The items are evenly spaced. If all items were read for their labels, all labels count too.
        """
        return self._fingerprint

    def unlabelled(self) -> "PythonSource":
        """Returns the same items without labels."""
        name = self.name.removeprefix("python:")
        return PythonSource(
            self._items, name=name, image=self._image, label=None, on_error=self.on_error,
            **self._reading,
        )  # fmt: skip

    def reading(self, *, on_error: str, **reading: Any) -> "PythonSource":
        """Returns a copy with the keys of `config.data` that say how pictures are read."""
        other = copy.copy(self)
        other.on_error, other._reading = on_error, {**self._reading, **reading}
        return other

    def check_workers(self) -> None:
        """Raises UserError unless the object can be sent to worker processes."""
        try:
            pickle.Pickler(_Nowhere()).dump(self._items)
        except Exception as error:
            raise UserError(
                f"Data '{self.name}' cannot be sent to worker processes: {error}. Leave "
                "data.workers=0, which reads by threads, or make the object picklable."
            ) from error

    def description(self) -> str:
        """Returns one line on the items and their labels."""
        labels = f"of {self.num_classes} classes" if self.num_classes else "without labels"
        return f"{self.name}: {self._length:,} items {labels}"


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def _length(items: Any) -> int:
    if isinstance(items, str | bytes | Mapping) or not (
        hasattr(items, "__len__") and hasattr(items, "__getitem__")
    ):
        raise UserError(
            f"Found {type(items).__name__} as data: expected an object with __len__ and "
            f"__getitem__, whose items are {EXPECTED}. Pass list(x) of what can only be iterated."
        )
    try:
        return len(items)
    except Exception as error:  # also a negative length
        raise UserError(
            f"The data of type {type(items).__name__} have no length: {error}. Expected __len__ "
            "to return the number of items, 0 or more."
        ) from error


def _names_of(items: Any, label: str | None) -> list[str] | None:
    """Returns the names that torchvision and Hugging Face datasets give to classes, if any."""
    features = getattr(items, "features", None)
    if isinstance(features, Mapping) and label in features:
        names = getattr(features[label], "names", None)
    else:
        names = getattr(items, "classes", None)
    listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if listed and names else None


def as_sources(data: Any, *, labels: str = "auto") -> dict[str, Any]:
    """Returns the sources of the splits of what was passed as data.

    Args:
        data: an object with `__len__` and `__getitem__`, a source, or a mapping of these with the
            keys 'train' and, as far as they are there, 'probe' and 'test'.
        labels: 'auto', or 'none' to read no labels.

    Raises:
        UserError: other keys, or as `PythonSource`.

    Example:
        >>> sorted(as_sources({'train': [np.zeros((8, 8, 3), np.uint8)]}))
        ['train']
    """
    splits = dict(data) if isinstance(data, Mapping) else {"train": data}
    if "train" not in splits or not set(splits) <= set(SPLITS):
        raise UserError(
            f"Found data with the keys {', '.join(map(repr, splits)) or 'none'}: expected 'train' "
            "and, as far as there are any, 'probe' and 'test'. Pass for example "
            "data={'train': x['train'], 'test': x['validation']}."
        )
    sources: dict[str, Any] = {"train": _as_source(splits.pop("train"), labels, None)}
    for split, items in splits.items():
        sources[split] = _as_source(items, labels, sources["train"])
    return sources


def _as_source(items: Any, labels: str, train: Any) -> Any:
    if isinstance(items, PythonSource):
        return items.unlabelled() if labels == "none" else items
    if isinstance(items, Source):
        return PythonSource(items, name=items.name, label=None) if labels == "none" else items
    known: dict[str, Any] = {"label": None} if labels == "none" else {}
    if train is not None and train.num_classes and _names_of(items, "label") is None:
        known |= {"class_names": train.class_names, "num_classes": train.num_classes}
    return PythonSource(items, **known)


@contextlib.contextmanager
def provided(data: Any, *, labels: str = "auto") -> Iterator[Any]:
    """Within it, `make_source` returns an object for the data set 'python'.

    `jssl.train(data=OBJECT, ...)` does this; it is for other functions on its runs.

    Args:
        data, labels: see `as_sources`.

    Yields:
        The source of the train split.

    Example (after `run = jssl.train(data=pictures, ...)`):
        with jssl.data.provided(pictures):
            jssl.evaluate.embed_run(run.workdir, output='features.npz', feature='backbone',
                                    split='train')
    """
    sources = as_sources(data, labels=labels)
    token = _provided.set(sources)
    try:
        yield sources["train"]
    finally:
        _provided.reset(token)


def provided_source(config: Any, split: str, **reading: Any) -> Any:
    """Returns the source of a split from `provided`.

    Args:
        config: the `data` section, whose name is 'python'.
        split: 'train', 'probe' or 'test'.
        **reading: the keys of `Picture.read`.

    Raises:
        UserError: no object, no such split, or one that cannot be sent to worker processes.
    """
    sources = _provided.get()
    if sources is None:
        raise UserError(
            "Data set 'python' is a Python object, which no command can read: expected "
            "jssl.train(data=OBJECT, method=..., workdir=...) in Python, which also resumes its "
            "run. To evaluate the run on pictures in a folder, type --source=folder "
            "--data_dir=FOLDER."
        )
    name = "train" if split == "probe" and "probe" not in sources else split
    if name not in sources:
        raise UserError(
            f"The data have no '{split}' split. Pass data={{'train': ..., '{split}': ...}}."
        )
    source = sources[name]
    if isinstance(source, PythonSource):
        if config.workers:
            source.check_workers()
        source = source.reading(on_error=config.on_error, **reading)
    return source


def has_provided(split: str) -> bool:
    """Whether an object was given for a split; every one has 'train' and 'probe'."""
    return split != "test" or "test" in (_provided.get() or {})
