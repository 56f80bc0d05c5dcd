"""Reads a matrix in a struct, or cells, of a MATLAB 5 file, in bounded memory.

`scipy.io.loadmat` ends the process (a segmentation fault) on some damaged files, so that it is
not used for files of others. What is not asked for is skipped by its size and not read.

Reference: MAT-File Format, The MathWorks, chapter 1, 'Level 5 MAT-File Format',
    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import numpy as np

Parts: TypeAlias = Iterator[tuple[int, memoryview]]

HEADER = 128  # bytes before the first element
MATRIX, COMPRESSED = 14, 15
# What numbers are stored as; MATLAB stores doubles that are small integers as bytes.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
          13: "u8"}  # fmt: skip
TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}  # stored as -> encoding
CELL, STRUCT, CHARACTERS = 1, 2, 4
NUMBERS = range(6, 16)  # classes of arrays, double to uint64
COMPLEX = 0x800
MAX_DIMENSIONS = 8
MAX_CELLS = 1_000_000


def read_field(data: bytes, variable: str, field: str, *, max_bytes: int) -> np.ndarray:
    """Returns the matrix `variable.field` of a MATLAB 5 file.

    Args:
        data: the content of the file.
        variable: name of a struct, 1 x 1.
        field: name of its field.
        max_bytes: largest size of all variables, unpacked.

    Returns:
        The matrix, with the type in which it is stored.

    Raises:
        ValueError: damaged, larger, no such field, or no real matrix.
    """
    order = _order(data)
    for name, array_class, shape, parts in _variables(data, order, max_bytes):
        if name == variable:
            if array_class != STRUCT or math.prod(shape) != 1:
                raise ValueError(f"{variable} is no struct of 1 x 1")
            return _matrix(_field(parts, field, order), order, field)
    raise ValueError(f"it has no {variable}")


def read_cells(
    data: bytes, variables: Collection[str], *, max_bytes: int
) -> dict[str, list[np.ndarray | str]]:
    """Returns the cells of variables of a MATLAB 5 file, in MATLAB's order.

    Args:
        data: the content of the file.
        variables: names of cell arrays; missing ones are ignored.
        max_bytes: largest size of all variables, unpacked.

    Returns:
        Of each variable its cells: a matrix with the type in which it is stored, or a line of text.

    Raises:
        ValueError: damaged, larger, no cells, or a cell with something else.
    """
    order, found = _order(data), dict[str, list[np.ndarray | str]]()
    for name, array_class, shape, parts in _variables(data, order, max_bytes):
        if name in variables:
            if array_class != CELL:
                raise ValueError(f"{name} is no array of cells")
            count = math.prod(shape)
            if count > MAX_CELLS:
                raise ValueError(f"{name} has {count:,} cells, expected {MAX_CELLS:,} at most")
            # One more than there should be tells that there are too many.
            cells = [_cell(part, order, name) for part in itertools.islice(parts, count + 1)]
            if len(cells) != count:
                raise ValueError(f"{name} has not the {count:,} cells that it promises")
            found[name] = cells
    return found


def _order(data: bytes) -> str:
    if not data.startswith(b"MATLAB 5.0") or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB 5 file")
    return "<" if data[126:128] == b"IM" else ">"


def _variables(data: bytes, order: str, most: int) -> Iterator[tuple[str, int, Any, Parts]]:
    """Yields name, class, shape and the further elements of each variable."""
    for kind, content in _elements(memoryview(data)[HEADER:], order, padded=False):
        if kind == COMPRESSED:
            unpacked = _unpacked(content, most)
            most -= len(unpacked)
            kind, content = next(_elements(memoryview(unpacked), order), (0, content))
        if kind != MATRIX:
            raise ValueError(f"it has an element of type {kind} where a matrix is expected")
        parts = _elements(content, order)
        array_class, _, shape = _head(parts, order)
        yield _text(_next(parts)[1]), array_class, shape, parts


def _cell(part: tuple[int, memoryview], order: str, name: str) -> np.ndarray | str:
    kind, content = part
    if kind != MATRIX:
        raise ValueError(f"a cell of {name} has the type {kind}")
    parts = _elements(content, order)
    array_class, _, shape = _head(parts, order)
    if array_class != CHARACTERS:
        return _matrix(content, order, f"a cell of {name}")
    _next(parts)  # its name, which is empty in a cell
    kind, letters = _next(parts)
    if kind not in TEXTS or shape[0] > 1:
        raise ValueError(f"a cell of {name} is no line of text")
    wide = {"<": "-le", ">": "-be"}[order] if TEXTS[kind] == "utf-16" else ""
    return bytes(letters).decode(TEXTS[kind] + wide)


def _elements(
    data: memoryview, order: str, *, padded: bool = True
) -> Iterator[tuple[int, memoryview]]:
    """Yields type and content of the elements one after another."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut short")
        kind, size = struct.unpack_from(order + "II", data, place)
        if kind >> 16:  # a small element: its size and its type share four bytes
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > 4:
                raise ValueError(f"it has a small element of {size} bytes")
        else:
            start = place + 8
            # Compressed ones have no padding.
            end = start + size + (-size % 8 if padded or kind != COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        place = end


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    part = next(parts, None)
    if part is None:
        raise ValueError("a matrix is cut short")
    return part


def _head(parts: Iterator[tuple[int, memoryview]], order: str) -> tuple[int, int, tuple[int, ...]]:
    """Returns the class of an array, its flags and its shape."""
    flags, shape = _numbers(_next(parts), order), _numbers(_next(parts), order)
    if len(flags) != 2 or not 2 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise ValueError("a matrix has a damaged head")
    return int(flags[0]) & 0xFF, int(flags[0]), tuple(int(side) for side in shape)


def _field(parts: Iterator[tuple[int, memoryview]], field: str, order: str) -> memoryview:
    """Returns the content of a field of a struct of 1 x 1."""
    length = _numbers(_next(parts), order)
    names = _next(parts)[1]
    if len(length) != 1 or not 1 <= length[0] <= 64:
        raise ValueError("a struct has damaged names")
    step = int(length[0])
    for start in range(0, len(names), step):
        kind, content = _next(parts)
        if kind != MATRIX:
            raise ValueError(f"a field of a struct has the type {kind}")
        if _text(names[start : start + step]) == field:
            return content
    raise ValueError(f"it has no field {field}")


def _matrix(content: memoryview, order: str, name: str) -> np.ndarray:
    parts = _elements(content, order)
    array_class, flags, shape = _head(parts, order)
    if array_class not in NUMBERS or flags & COMPLEX:
        raise ValueError(f"{name} is no matrix of real numbers")
    _next(parts)  # its name, which is empty in a struct
    values = _numbers(_next(parts), order)
    if len(values) != math.prod(shape):
        raise ValueError(f"{name} has {len(values):,} numbers, expected {math.prod(shape):,}")
    return values.reshape(shape, order="F")


def _numbers(part: tuple[int, memoryview], order: str) -> np.ndarray:
    kind, content = part
    if kind not in STORED or len(content) % np.dtype(STORED[kind]).itemsize:
        raise ValueError(f"it has {len(content):,} bytes of type {kind} where numbers are expected")
    return np.frombuffer(content, np.dtype(order + STORED[kind]))


def _text(content: memoryview) -> str:
    return bytes(content).split(b"\0")[0].decode("latin-1")


def _unpacked(content: memoryview, most: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        unpacked = decoder.decompress(content, most + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if len(unpacked) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")
    if not decoder.eof:
        raise ValueError("it is cut short")
    return unpacked
