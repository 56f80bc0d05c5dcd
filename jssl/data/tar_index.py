"""Finds the pictures of a WebDataset tar file from its headers, for random access.

    a/001.jpg  a/001.cls  a/001.json  a/002.jpg ...

The key of a member is its name up to the first dot of its last part; the members of an example
have one key and lie next to each other. The picture is the member that ends like one; the label
is the whole number in `.cls`, or in `.json` under "label". Others, such as the caption in `.txt`,
are passed over.
"""

import array
import collections
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl.data.items import MAX_CLASSES, reason_of
from jssl.data.unpack import FILES, MAX_NAME, Member, MemberError
from jssl.data.walk import ENDINGS, printable
from jssl.errors import UserError
from jssl.regular import FileError, check_regular

PICTURES = tuple(ending[1:] for ending in ENDINGS)
MAX_CLS, MAX_JSON = 32, 2**20  # bytes of a label
MAX_PICTURE = 2**32 - 1  # bytes
BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7z": "unxz", b"(\xb5/\xfd": "unzstd"}


class TarIndex(NamedTuple):
    """The pictures of one tar file.

    Attributes:
        offsets: int64 [M], where each begins in the file, in bytes.
        sizes: uint32 [M], in bytes.
        labels: int32 [M], -1 for none.
        passed: number of members that were passed over, by ending.
        file: (bytes, time of the last change in ns) of the tar file.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    passed: collections.Counter[str]
    file: tuple[int, int]


def read_index(path: str | Path) -> TarIndex:
    """Reads the headers of a tar file, and the labels.

    Args:
        path: of a regular file, not compressed.

    Raises:
        UserError: no plain tar file, damage, or members that are neither files nor folders, lie
            outside, or are two pictures of one example.
    """
    try:
        check_regular(os.stat(path), 2**63)
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            reader = _Reader(str(path), file.fileno(), stat.st_size)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as tar:
                for name, start, length in _members(tar, file.fileno()):
                    reader.add(name, start, length)
            reader.close_example()
    except FileError as error:
        raise UserError(f"Shard '{path}' {error}.") from error
    except (MemberError, UnicodeError) as error:
        raise UserError(f"Shard '{path}' cannot be used: {error}.") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(
            f"Shard '{path}' is no whole plain tar file: {reason}. {_advice(path)}"
        ) from error
    return TarIndex(
        np.array(reader.offsets, np.int64),
        np.array(reader.sizes, np.uint32),
        np.array(reader.labels, np.int32),
        reader.passed,
        (stat.st_size, stat.st_mtime_ns),
    )


def _members(tar: Any, descriptor: int) -> Iterator[tuple[str, int, int]]:
    """Yields name, place and size of the files; the plain headers are read without `tarfile`.

    That takes a fifth of the time. Other headers, the end and damage are left to `tarfile`.
    """
    place = 0
    while True:
        plain = _plain(os.pread(descriptor, BLOCK, place)) if place else None
        if plain is not None and not tar.pax_headers:
            name, size = plain
            start = place + BLOCK
            place = start + -(-size // BLOCK) * BLOCK
            yield name, start, size
            continue
        if place:
            tar.offset = place
        member = tar.next()
        tar.members = []  # a million headers would fill the memory
        if member is None:
            return
        _check_kind(member)
        if not member.isdir():
            yield member.name, member.offset_data, member.size
        place = tar.offset


def _plain(block: bytes) -> tuple[str, int] | None:
    """Returns name and size of a regular file with a short name; None for any other header."""
    if block[156:157] != b"0" or block[257:262] != b"ustar" or block[345]:
        return None
    size = block[124:136].strip(b" \0")
    stored = block[148:156].strip(b" \0")
    if not (size.isdigit() and stored.isdigit()):  # a large size is binary
        return None
    try:
        if sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(stored, 8):
            return None
        name = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return name, int(size, 8)
    except ValueError:
        return None


def _advice(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError:
        head = b""
    for magic, command in COMPRESSED.items():
        if head.startswith(magic):
            return f"It is compressed, which has no random access: unpack it with {command}."
    return "It is cut short or damaged: copy it again."


class _Reader:
    """Groups the members of one file into examples."""

    def __init__(self, path: str, descriptor: int, size: int):
        self._path, self._descriptor, self._size = path, descriptor, size
        self.offsets, self.sizes = array.array("q"), array.array("Q")
        self.labels = array.array("i")
        self.passed: collections.Counter[str] = collections.Counter()
        self._key = ""
        self._picture: tuple[int, int] | None = None  # place and size
        self._cls: int | None = None
        self._json: int | None = None
        self._others = 0

    def add(self, path: str, start: int, size: int) -> None:
        """Adds the next file."""
        name = printable(path)[:80]
        outside = path.startswith("/") or ".." in path and ".." in path.split("/")
        if outside or "\0" in path or len(os.fsencode(path)) > MAX_NAME:
            raise MemberError(f"'{name}' is not a path inside a folder")
        if start + size > self._size:
            raise tarfile.ReadError(f"'{name}' is cut short")
        folder, _, base = path.rpartition("/")
        stem, _, ending = base.partition(".")
        key = f"{folder}/{stem}"
        if key != self._key:
            self.close_example()
            self._key = key
        ending = ending.lower()
        if ending in PICTURES:
            if self._picture is not None:
                raise MemberError(f"'{name}' is a second picture of '{printable(stem)}'")
            if size > MAX_PICTURE:
                raise MemberError(f"'{name}' has {size:,} bytes")
            self._picture = start, size
        elif ending == "cls":
            self._cls = _whole(self._read(start, size, MAX_CLS, name), name)
        elif ending == "json":
            self._json = _label_in(self._read(start, size, MAX_JSON, name), name)
            self._others += 1
        else:
            self.passed[f".{printable(ending)[:20]}"] += 1
            self._others += 1

    def _read(self, start: int, size: int, limit: int, name: str) -> bytes:
        if size > limit:
            raise MemberError(f"'{name}' has {size:,} bytes, expected at most {limit:,}")
        return os.pread(self._descriptor, size, start)

    def close_example(self) -> None:
        """Ends the example to which the last members belonged."""
        if self._picture is not None:
            label = self._json if self._cls is None else self._cls
            self.offsets.append(self._picture[0])
            self.sizes.append(self._picture[1])
            self.labels.append(-1 if label is None else label)
        elif self._cls is not None and not self._others:
            raise MemberError(
                f"the label of '{printable(self._key)[-80:].lstrip('/')}' has no picture next to "
                "it; expected the members of an example one after the other"
            )
        self._picture = self._cls = self._json = None
        self._others = 0


def _check_kind(member: tarfile.TarInfo) -> None:
    if member.type not in (*FILES, tarfile.DIRTYPE) or member.sparse is not None:
        kinds = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
        kind = kinds.get(member.type, "a device, a pipe or a sparse file")
        name = printable(member.name)[:80]
        raise MemberError(f"'{name}' is {kind}; expected files and folders only")


def _whole(content: bytes, name: str) -> int:
    text = content.strip()
    if not text.isdigit() or int(text) >= MAX_CLASSES:
        raise MemberError(
            f"'{name}' holds {content[:20]!r}; expected the number of a class, from 0 and below "
            f"{MAX_CLASSES:,}"
        )
    return int(text)


def _label_in(content: bytes, name: str) -> int | None:
    if b'"label"' not in content:
        return None
    try:
        value = json.loads(content)
        label = value.get("label") if isinstance(value, dict) else None
    except (ValueError, RecursionError) as error:
        raise MemberError(f"'{name}' is no JSON: {error}") from error
    if label is None:
        return None
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not 0 <= label < MAX_CLASSES:
        raise MemberError(
            f"'{name}' has the label {str(label)[:20]}; expected the number of a class, from 0 and "
            f"below {MAX_CLASSES:,}"
        )
    return label
