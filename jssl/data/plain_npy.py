"""Reads a picture from the bytes of an .npy file: uint8 or uint16 [H,W,C], without pickle."""

import io
import math

import numpy as np

from jssl.data.channels import Range, need_range, scaled
from jssl.data.plain_npz import read_header

MAGIC = b"\x93NUMPY"
ENDING = ".npy"


def size_of(data: bytes) -> tuple[int, int]:
    """Returns height and width from the header.

    Raises:
        ValueError: a damaged header, other than uint8 or uint16 [H,W] or [H,W,C], or another
            number of bytes than it promises.
    """
    shape, _, _, _ = _header(data)
    return shape[0], shape[1]


def read_array(data: bytes, name: str, limits: Range) -> tuple[np.ndarray, list[str]]:
    """Reads the picture.

    Args:
        data: the content of the file.
        name: of the file, for messages.
        limits: () or (low, high) of `config.data.range`.

    Returns:
        uint8 [H,W,C], and the conversions of `jssl.data.decode.KINDS` that were made.

    Raises:
        ValueError: as `size_of`.
        UserError: uint16 without a range.

    Example:
        >>> read_array(bytes_of(np.full((2, 3), 7, np.uint8)), 'x.npy', ())[0].shape
        (2, 3, 1)
    """
    shape, fortran, dtype, start = _header(data)
    array = np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype.itemsize == 1:
        return np.ascontiguousarray(array), []
    if not limits:
        need_range(f"Picture '{name}'")
    return scaled(array, limits)


def bytes_of(array: np.ndarray) -> bytes:
    """Returns an array as the content of an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Returns shape, Fortran order, dtype and the place of the first value."""
    file = io.BytesIO(data)
    shape, fortran, dtype = read_header(file, "it")
    if dtype.kind != "u" or dtype.itemsize > 2 or len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"it is an array {dtype} {list(shape)}; expected uint8 or uint16, [H,W,C] or [H,W]"
        )
    expected, actual = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if actual != expected:
        raise ValueError(f"it promises {expected:,} bytes of levels and holds {actual:,}")
    return shape, fortran, dtype, file.tell()
