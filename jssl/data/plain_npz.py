"""Reads arrays of numbers and text from an .npz file, without pickle, in bounded memory.

Each array's header is read first: its shape must match the stored bytes.
"""

import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from jssl.errors import UserError

KINDS = "biufU"  # bool, integers, floats, text
RATIO = 1100  # deflate expands a byte to 1032 at most
CHUNK = 2**24  # bytes that are read at a time


def read_npz(path: str | Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file.

    Args:
        path: of the file.
        only: names of those to read; missing ones are ignored. All by default.

    Returns:
        The arrays by name.

    Raises:
        UserError: no such file, not an .npz, one that is damaged or larger than the machine's
            memory, or arrays of anything but numbers and text.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix='.npz') as file:
        ...     np.savez(file.name, rows=np.arange(3))
        ...     read_npz(file.name)
        {'rows': array([0, 1, 2])}
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"'{path}' is no file: expected arrays as numpy.savez writes them.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > _memory():
                raise ValueError(
                    f"arrays of {size / 2**30:,.0f} GB, for {_memory() / 2**30:,.0f} GB of memory"
                )
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise ValueError("two arrays of one name")
            arrays = zip(names, members, strict=True)
            return {n: _read(archive, m) for n, m in arrays if only is None or n in only}
    except Exception as error:  # a damaged archive raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"'{path}' cannot be read: {reason}. Expected whole arrays of numbers, [M,...] each, "
            "as numpy.savez writes them. Write or copy it again."
        ) from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"'{name}' is compressed in a way that numpy does not write")
    if member.file_size > RATIO * member.compress_size + RATIO:
        raise ValueError(
            f"'{name}' promises {member.file_size:,} bytes in {member.compress_size:,} compressed"
        )
    with archive.open(member) as file:
        shape, fortran, dtype = read_header(file, name)
        if dtype.hasobject or dtype.kind not in KINDS:
            raise ValueError(f"'{name}' is an array of {dtype}, not of numbers")
        expected = math.prod(shape) * dtype.itemsize
        actual = member.file_size - file.tell()
        if actual != expected:
            raise ValueError(f"'{name}' promises {expected:,} bytes and holds {actual:,}")
        data, done = bytearray(expected), 0
        while done < expected:
            # typeshed: IO[bytes]; it is a zipfile.ZipExtFile, which has it
            read = file.readinto(memoryview(data)[done : done + CHUNK])  # type: ignore[attr-defined]
            if not read:
                raise ValueError(f"'{name}' ends after {done:,} of {expected:,} bytes")
            done += read
        file.read(1)  # to the end: the archive compares its checksum there
    array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of an .npy file: shape, Fortran order and dtype.

    Args:
        file: binary, at its start; afterwards at the first value.
        name: of the array, for messages.

    Raises:
        ValueError: a damaged header, an unknown version or a negative size.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"'{name}' is of version {version}, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file)
    if any(n < 0 for n in shape):
        raise ValueError(f"'{name}' has the shape {list(shape)}")
    return shape, fortran, dtype


def _memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
