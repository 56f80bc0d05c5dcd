"""Pictures in shards: WebDataset tar files or array_record files, with random access.

The headers of all tar files are read once, when the source is made. The index has 12 bytes for a
picture, 16 with labels; every process has the same one, and the pipeline gives each its part of a
batch. A picture is read by one `pread`.
"""

import collections
import functools
import glob
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jssl.data.decode import Picture, PictureError
from jssl.data.records import Records
from jssl.data.tar_index import BLOCK, read_index
from jssl.data.walk import printable
from jssl.errors import UserError
from jssl.regular import MAX_MEGABYTES

PREFIX = "shards:"
ENDS = {".tar.gz": "gunzip", ".tgz": "gunzip", ".tar.bz2": "bunzip2", ".tar.xz": "unxz",
        ".tar.zst": "unzstd"}  # fmt: skip
RECORD = (".array_record", ".arrayrecord")


def find_shards(pattern: str, data_dir: str = "") -> list[str]:
    """Lists the shards of a pattern, sorted.

    Args:
        pattern: with `*`, `?`, `[0-9]` or `**`.
        data_dir: folder of a relative pattern; '' for the working directory.

    Raises:
        UserError: none, compressed ones, ones of another kind, or of both kinds.

    Example:
        >>> find_shards('no_such-*.tar')
        Traceback (most recent call last):
        jssl.errors.UserError: The pattern 'no_such-*.tar' matches no files: expected shards such \
as --config.data.name='shards:yfcc/*.tar'.
    """
    full = os.path.join(os.path.expanduser(data_dir), os.path.expanduser(pattern))
    paths = sorted(path for path in glob.glob(full, recursive=True) if os.path.isfile(path))
    if not paths:
        hint = " Braces are not expanded: type * instead." if "{" in pattern else ""
        raise UserError(
            f"The pattern '{printable(full)}' matches no files: expected shards such as "
            f"--config.data.name='shards:yfcc/*.tar'.{hint}"
        )
    for path in paths:
        command = next((c for end, c in ENDS.items() if path.lower().endswith(end)), "")
        if command:
            raise UserError(
                f"Shard '{printable(path)}' is compressed, which has no random access. Type "
                f"{command} '{printable(path)}', and a pattern that ends in .tar."
            )
    kinds = {os.path.splitext(path)[1].lower() for path in paths}
    if len(kinds) > 1 or not kinds <= {".tar", *RECORD}:
        raise UserError(
            f"The pattern '{printable(full)}' matches files ending in {', '.join(sorted(kinds))}: "
            "expected .tar only, or .array_record only."
        )
    return paths


class _Joined(NamedTuple):
    """The indexes of several tar files: the end of each, and places, sizes and labels of all."""

    ends: np.ndarray
    files: tuple[tuple[int, int], ...]
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    passed: collections.Counter[str]


@functools.lru_cache(maxsize=4)
def _index(paths: tuple[str, ...], stats: tuple[tuple[int, int], ...]) -> _Joined:
    """Reads the headers of tar files, once in a process while they stay as in `stats`."""
    indexes = [read_index(path) for path in paths]
    return _Joined(
        np.cumsum([len(index.offsets) for index in indexes]),
        tuple(index.file for index in indexes),
        np.concatenate([index.offsets for index in indexes]),
        np.concatenate([index.sizes for index in indexes]),
        np.concatenate([index.labels for index in indexes]),
        sum((index.passed for index in indexes), collections.Counter()),
    )


def _index_of(paths: list[str]) -> _Joined:
    stats = [os.stat(path) for path in paths]
    return _index(tuple(paths), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


class ShardSource:
    """The pictures in the shards of a pattern; see `jssl.data.tar_index` and `jssl.data.records`.

    Args:
        pattern: of the shards.
        others: patterns of the other splits, whose labels count for the number of classes.
        data_dir: folder of a relative pattern.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        max_megabytes: the largest size of a picture, in units of 2^20 bytes.
        **reading: the other keys of `Picture.read`.

    Attributes:
        labels: int32 [M]; -1 for pictures without labels.

    Raises:
        UserError: no shards, a damaged one, or labels for a part of the pictures.
    """

    image_shape = None  # pictures differ in size

    def __init__(
        self,
        pattern: str,
        *,
        others: Sequence[str] = (),
        data_dir: str = "",
        on_error: str = "stop",
        max_megabytes: int = MAX_MEGABYTES,
        **reading: Any,
    ):
        self.name, self.on_error = PREFIX + pattern, on_error
        self._reading, self._max_bytes = reading, max_megabytes * 2**20
        self._paths = find_shards(pattern, data_dir)
        self._records: Records | None = None
        self._labels: np.ndarray | None = None
        self._passed: collections.Counter[str] = collections.Counter()
        if self._paths[0].lower().endswith(RECORD):
            self._records = Records(self._paths)
            self._length = len(self._records)
            self._state = str(self._length)
        else:
            self._join(_index_of(self._paths))
        self.num_classes = 0
        if self._labels is not None:  # a split may lack some classes of the data set
            shards = [find_shards(other, data_dir) for other in others if other != pattern]
            tars = [paths for paths in shards if not paths[0].lower().endswith(RECORD)]
            labels = [self._labels, *(_index_of(paths).labels for paths in tars)]
            self.num_classes = max(int(part.max(initial=-1)) for part in labels) + 1
        # Numbers have no names, and no labels no classes.
        self.class_names: tuple[str, ...] | None = None if self.num_classes else ()

    def _join(self, index: _Joined) -> None:
        self._ends, self._files, labels = index.ends, index.files, index.labels
        self._offsets, self._sizes, self._passed = index.offsets, index.sizes, index.passed
        self._length = len(labels)
        if not self._length:
            others = ", ".join(f"{n} x {end}" for end, n in self._passed.most_common(5))
            raise UserError(
                f"The shards of '{self.name}' hold no pictures: found {others or 'no files'}; "
                "expected members such as KEY.jpg."
            )
        without = np.flatnonzero(labels < 0)
        if 0 < len(without) < self._length:
            raise UserError(
                f"The shards of '{self.name}' have labels for {self._length - len(without):,} of "
                f"{self._length:,} pictures, and none for '{self._name(int(without[0]))}': "
                "expected labels for all, or for none."
            )
        self._labels = None if len(without) else labels
        state = hashlib.sha256(self._offsets.tobytes() + self._sizes.tobytes())
        state.update(b"" if self._labels is None else self._labels.tobytes())
        self._state = state.hexdigest()

    @property
    def labels(self) -> np.ndarray:
        return np.full(self._length, -1, np.int32) if self._labels is None else self._labels

    def __len__(self) -> int:
        return self._length

    def _place(self, index: int) -> int:
        """Returns the number of the shard of an example."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def _name(self, index: int, block: bytes | None = None) -> str:
        """Returns shard and member of an example; `block` is the header before it."""
        shard = self._place(index)
        if block is None:
            block, _ = self._pread(shard, int(self._offsets[index]) - BLOCK, BLOCK)
        member = block[:100].partition(b"\0")[0].decode("utf-8", "backslashreplace")
        return f"{self._paths[shard]}: {printable(member)}"

    def _pread(self, shard: int, offset: int, size: int) -> tuple[bytes, bytes]:
        """Reads a header and what follows from a shard, which is opened for it.

        Thousands of shards may not be open at once; and this works in every thread and process.
        """
        path = self._paths[shard]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stat = os.fstat(descriptor)
                data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UserError(
                f"Shard '{printable(path)}' cannot be read: {error.strerror}. Expected it as when "
                "the run started."
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != self._files[shard] or len(data) < size:
            raise UserError(
                f"Shard '{printable(path)}' has changed since its headers were read. Start the "
                "command again."
            )
        return data[:BLOCK], data[BLOCK:]

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        index = int(index)
        if not 0 <= index < self._length:
            raise IndexError(index)
        if self._records is not None:
            name = f"{self.name} example {index}"
            data = self._records.picture(index, name)
            size = len(data)
        else:
            size = int(self._sizes[index])
            if size > self._max_bytes:
                name = self._name(index)
            else:
                shard, offset = self._place(index), int(self._offsets[index])
                block, data = self._pread(shard, offset - BLOCK, BLOCK + size)
                name = self._name(index, block)
        if size > self._max_bytes:
            raise PictureError(
                f"Picture '{name}' has {size:,} bytes; expected at most {self._max_bytes:,}. To "
                "read larger ones type --config.data.max_megabytes=N."
            )
        label = -1 if self._labels is None else self._labels[index]
        return {
            "image": Picture(data, name, **self._reading),
            "label": np.int32(label),
            "index": np.int32(index),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of the names of the shards, and of the places, sizes and labels in them.

        Of array_record files only the names and the number of records.
        """
        names = "\n".join(os.path.basename(path) for path in self._paths)
        return hashlib.sha256(os.fsencode(f"{names}\n{self._state}")).hexdigest()[:16]

    def description(self) -> str:
        """Returns one line on what was read and what was passed over."""
        labels = f"of {self.num_classes} classes" if self.num_classes else "without labels"
        passed = ", ".join(f"{n:,} x {end}" for end, n in self._passed.most_common(10))
        return (
            f"{self.name}: {self._length:,} pictures {labels} in {len(self._paths):,} shards; "
            f"{f'passed over: {passed}' if passed else 'nothing passed over'}"
        )


def patterns_of(config: Any, split: str) -> tuple[str, list[str]]:
    """Returns the pattern of the shards of a split, and those of the others.

    Args:
        config: the `data` section, whose name is 'shards:GLOB'.
        split: 'train', 'probe' or 'test'.

    Raises:
        UserError: no pattern for the split.
    """
    train = config.train_split or config.name.removeprefix(PREFIX)
    if not train:
        raise UserError(
            f"Data set '{config.name}' names no shards. Type --config.data.name='shards:GLOB'."
        )
    patterns = {"train": train, "probe": config.probe_split or train, "test": config.test_split}
    if not patterns[split]:
        raise UserError(
            f"Data set '{config.name}' has no {split} shards. Type "
            f"--config.data.{split}_split='val/*.tar'."
        )
    return patterns[split], sorted({other for other in patterns.values() if other})
