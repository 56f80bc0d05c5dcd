"""Reads TensorFlow's V2 checkpoints, NAME.index and NAME.data-NNNNN-of-NNNNN, without TensorFlow.

The index is a sorted table of LevelDB. Its footer points to a block of the blocks:

    footer    two block handles (varints offset, length), zeros, a magic number; 48 bytes
    block     entries, their restart offsets, then a byte of compression and a checksum
    entry     varints (bytes shared with the key before, other bytes, bytes of the value)

A value is a protocol buffer `BundleEntryProto`, which says in which file a tensor lies and where.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jssl.convert.crc32c import masked
from jssl.errors import UserError
from jssl.regular import FileError, check_regular, read_file

MAX_INDEX = 2**26  # bytes of the index, which holds names and shapes
_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_DTYPES: dict[int, Any] = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64,
                           10: np.bool_, 14: ml_dtypes.bfloat16, 19: np.float16}  # fmt: skip
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"  # of TensorFlow 2, a text
_TEXT = 7


class _DamagedError(Exception):
    """Says what is wrong with a checkpoint."""


class Tensor(NamedTuple):
    """A tensor of a checkpoint, read when `np.asarray` is called.

    Attributes:
        path: of the data file.
        offset, size: in it, in bytes.
        shape, dtype: of the tensor.
        checksum: of its bytes, as stored.
    """

    path: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: int

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Reads the values and compares their checksum."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size or masked(data) != self.checksum:
            raise UserError(
                f"'{self.path}' is damaged: the checksum of a tensor of shape {list(self.shape)} "
                "differs. Fetch the checkpoint again from where its authors publish it."
            )
        values = np.frombuffer(data, self.dtype).reshape(self.shape)
        return np.array(values, dtype, order="C")


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint: its index, its prefix, or a folder with one index."""
    return _index_of(path) is not None


def _index_of(path: Path) -> Path | None:
    if path.is_dir():
        indices = sorted([*path.glob("*.index"), *path.glob("variables/*.index")])
        return indices[0] if len(indices) == 1 else None
    if path.suffix == ".index":
        return path
    beside = Path(f"{path}.index")
    return beside if beside.is_file() else None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Reads the names and places of the tensors of a checkpoint.

    Args:
        path: the index, the prefix that the files share, or a folder with one index.

    Returns:
        Name -> tensor; the files of the checkpoint.

    Raises:
        UserError: no such file, a damaged one, or a checkpoint of objects, as Keras writes.

    Reference: https://github.com/tensorflow/tensorflow, tensorflow/core/util/tensor_bundle;
        https://github.com/google/leveldb, doc/table_format.md.
    """
    index = _index_of(path)
    if index is None:
        raise UserError(f"'{path}' has no .index file: expected a TensorFlow checkpoint there.")
    try:
        table = dict(_read_table(read_file(index, MAX_INDEX)))
        shards = _shards(index, table)
        tensors = {}
        for key, value in table.items():
            name = key.decode()
            if name.endswith(_OBJECTS) or "/.ATTRIBUTES/" in name:
                raise UserError(
                    f"'{index}' is a checkpoint of objects of TensorFlow 2 ('{name[:60]}'): "
                    "expected one of TensorFlow 1, with names such as base_model/conv2d/kernel."
                )
            if name and (tensor := _tensor(name, value, shards)) is not None:
                tensors[name] = tensor
    except FileError as error:
        raise UserError(f"'{index}' {error}.") from error
    except OSError as error:
        raise UserError(f"'{error.filename}' cannot be read: {error.strerror}.") from error
    except (_DamagedError, ValueError, IndexError, struct.error) as error:
        raise UserError(
            f"'{index}' is damaged: {error}. Expected a TensorFlow checkpoint: fetch it again "
            "from where its authors publish it."
        ) from error
    return tensors, (index, *shards)


def _shards(index: Path, table: dict[bytes, bytes]) -> list[Path]:
    """The data files, all present."""
    header = _fields(table.get(b"", b""))
    count = header.get(1, [1])[0]
    if header.get(2, [0])[0] != 0:
        raise _DamagedError("values with the most significant byte first")
    if not 1 <= count <= 10**5:
        raise _DamagedError(f"{count} data files")
    prefix = str(index).removesuffix(".index")
    paths = [Path(f"{prefix}.data-{i:05d}-of-{count:05d}") for i in range(count)]
    for path in paths:
        check_regular(os.stat(path), 2**40)
    return paths


def _tensor(name: str, value: bytes, shards: list[Path]) -> Tensor | None:
    """The tensor of a table's value; None for a text."""
    fields = _fields(value)
    kind, shard = fields.get(1, [0])[0], fields.get(3, [0])[0]
    if kind == _TEXT:
        return None
    if kind not in _DTYPES or 7 in fields:
        raise _DamagedError(f"'{name}' has type {kind}{', in slices' if 7 in fields else ''}")
    dims = [_fields(dim).get(1, [0])[0] for dim in _fields(fields.get(2, [b""])[0]).get(2, [])]
    offset, size = fields.get(4, [0])[0], fields.get(5, [0])[0]
    dtype = np.dtype(_DTYPES[kind])
    if any(dim >= 2**31 for dim in dims) or math.prod(dims) * dtype.itemsize != size:
        raise _DamagedError(f"'{name}' of shape {dims} has {size} bytes")
    if shard >= len(shards) or offset + size > os.stat(shards[shard]).st_size:
        raise _DamagedError(f"'{name}' lies beyond the end of its data file")
    return Tensor(shards[shard], offset, size, tuple(dims), dtype, fields.get(6, [0])[0])


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise _DamagedError("no table's magic number at its end")
    footer = data[-_FOOTER:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)  # the handle of the meta index, which is empty
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _read_block(data, offset, size):
        start, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
        yield from _read_block(data, start, length)


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + 5]
    if len(block) != size or len(trailer) != 5:
        raise _DamagedError("a block beyond its end")
    if trailer[0] != 0:
        raise _DamagedError("a compressed block")
    if masked(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
        raise _DamagedError("the checksum of a block differs")
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        other, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + other + length > end:
            raise _DamagedError("an entry beyond its block")
        key = key[:shared] + block[at : at + other]
        yield key, block[at + other : at + other + length]
        at += other + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one begins."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _DamagedError("a number of more than ten bytes")


def _fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer: number -> values, integers or bytes."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value: Any
            value, at = _varint(data, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + width], "little"), at + width
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise _DamagedError(f"a field of kind {kind}")
        if at > len(data):
            raise _DamagedError("a field beyond its end")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
