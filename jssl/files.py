"""Atomic writes: to a temporary file in the same folder, which is then renamed.

A kill, a full disk or a power cut leaves the old file or the new one, never a part. jssl writes
all files that it may replace here.
"""

import contextlib
import io
import itertools
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jssl.errors import UserError

_count = itertools.count()
PROBE = bytes(65536)  # a test write: a full disk may still accept an empty file


def replace(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a temporary file, and renames it when it is complete and on the disk.

    A link is followed, and a file that is replaced keeps its permissions.

    Args:
        path: of the file; its folder exists.
        write: called with the open file.

    Raises:
        OSError: the old file is unchanged.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            with contextlib.suppress(OSError):  # no such file, or another user's
                os.chmod(temporary, path.stat().st_mode & 0o7777)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes bytes, see `replace`."""
    replace(path, lambda file: file.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8, see `replace`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON, see `replace`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays as .npz, see `replace`."""
    named: dict[str, Any] = {**arrays}  # typed Any, as savez also has a flag among its keywords
    replace(path, lambda file: np.savez(file, **named))


class Blocks(NamedTuple):
    """An array that is written in blocks of its rows, so that it is never in memory as a whole.

    Attributes:
        shape: of the array.
        dtype: of the array.
        blocks: its rows, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[np.ndarray]


def write_npz_blocks(path: str | Path, arrays: Iterable[tuple[str, Blocks]]) -> None:
    """Writes arrays in blocks as .npz, the same bytes as `write_npz`.

    Args:
        path: of the file; its folder exists.
        arrays: names and arrays; each is written before the next is asked for.

    Raises:
        OSError: see `replace`.
        ValueError: blocks that do not have the shape together.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, (shape, dtype, blocks) in arrays:
                # As numpy.savez: without the time of the writing.
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype))
                    np.lib.format.write_array_header_1_0(member, {**header, "shape": shape})
                    size = 0
                    for block in blocks:
                        plain = np.ascontiguousarray(block, dtype)
                        member.write(plain.reshape(-1).view(np.uint8).data)
                        size += plain.size
                if size != math.prod(shape):
                    raise ValueError(f"{name}: {size} numbers in blocks, expected shape {shape}.")

    replace(path, write)


def write_picture(path: str | Path, picture: Any) -> None:
    """Writes a picture of Pillow as PNG, see `replace`."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def move(path: Path, place: Path) -> None:
    """Renames a file or folder within a file system."""
    os.rename(path, place)


def create(path: Path, text: str) -> bool:
    """Creates a file atomically, if there is none.

    Returns:
        Whether it was written; False if the file exists.
    """
    temporary = _temporary(path)
    try:
        temporary.write_text(text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, such as a mounted bucket
        try:
            with open(path, "x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def check_folder(folder: Path) -> None:
    """Raises OSError if a folder cannot be written, or its disk is full."""
    temporary = _temporary(folder / "probe")
    try:
        with open(temporary, "xb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, *, ending: str, flag: str = "--output") -> Path:
    """Checks that an output file can be written, before anything is computed for it.

    Args:
        path: value of the flag.
        ending: required suffix, such as '.npz'; '' for any.
        flag: its name, for the messages.

    Raises:
        UserError: another suffix, no such folder, a read-only folder, or `path` is a folder.
    """
    path = Path(path)
    if ending and path.suffix != ending:
        raise UserError(
            f"{flag} must end with {ending}, found '{path}'. Type {flag}={path}{ending}."
        )
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"'{path}' is no file but a folder or device. Type another {flag}.")
        check_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a "
            f"disk with room. Type another {flag}."
        ) from None
    return path


def _temporary(path: Path) -> Path:
    # Short, as the name of the file itself may have the maximal length.
    return path.with_name(f".{os.getpid()}-{next(_count)}.part")
