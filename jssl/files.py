"""Files that are written whole: beside their place first, then renamed.

A kill, a full disk or a power cut leaves the old file or the new one, and never a part. Everything
that jssl writes and replaces is written here.
"""

import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jssl.errors import UserError

_count = itertools.count()
PROBE = bytes(65536)  # of a folder that is to be written: a full disk may take an empty file


def replace(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file beside its place, and renames it when it is whole and on the disk.

    A link is followed, and the permissions of a file that is replaced stay.

    Args:
        path: of the file; its folder exists.
        write: called with the open file.

    Raises:
        OSError: the file is as it was.
    """
    path = Path(os.path.realpath(path))
    beside = _beside(path)
    try:
        with open(beside, "xb") as file:
            with contextlib.suppress(OSError):  # where there is none, or it is another user's
                os.chmod(beside, path.stat().st_mode & 0o7777)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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
    named: dict[str, Any] = {**arrays}  # savez has a flag, too, among its names
    replace(path, lambda file: np.savez(file, **named))


def write_picture(path: str | Path, picture: Any) -> None:
    """Writes a picture of Pillow as PNG, see `replace`."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def move(path: Path, place: Path) -> None:
    """Renames a file or folder within a file system."""
    os.rename(path, place)


def create(path: Path, text: str) -> bool:
    """Writes a file where there is none; it is whole from its first moment on.

    Returns:
        Whether it was written; False where there is one already.
    """
    beside = _beside(path)
    try:
        beside.write_text(text)
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, such as a mounted bucket
        try:
            with open(path, "x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def check_folder(folder: Path) -> None:
    """Raises OSError when a folder takes no file, or the disk under it has no room at all."""
    beside = _beside(folder / "probe")
    try:
        with open(beside, "xb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    finally:
        beside.unlink(missing_ok=True)


def check_output(path: str | Path, *, ending: str) -> Path:
    """Refuses a file that could not be written at the end, before anything is computed for it.

    Args:
        path: of the file that --output names.
        ending: that it must have, such as '.npz'; '' for any.

    Raises:
        UserError: another ending, no such folder, one that takes no file, or a folder of that name.
    """
    path = Path(path)
    if ending and path.suffix != ending:
        raise UserError(
            f"--output must end with {ending}, found '{path}'. Type --output={path}{ending}."
        )
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"'{path}' is no file but a folder or device. Type another --output.")
        check_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a "
            "disk with room. Type another --output."
        ) from None
    return path


def _beside(path: Path) -> Path:
    # Short, as the name itself may have all the length that there is.
    return path.with_name(f".{os.getpid()}-{next(_count)}.part")
