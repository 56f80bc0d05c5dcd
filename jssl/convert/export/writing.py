"""Writes exports: a file with its card beside it, or a folder, complete or not at all."""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jssl import files
from jssl.errors import UserError

CARD = "README.md"  # in a folder; FILE.md beside a file


def check_folder(output: str | Path) -> Path:
    """Checks that a new folder can be written, before anything is computed for it.

    Raises:
        UserError: it exists and is not empty, or its parent cannot be written.
    """
    output = Path(output)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"'{output}' exists: expected a new folder. Type another --output.")
        files.check_folder(output.absolute().parent)
    except OSError as error:
        raise _unwritable(output, error) from None
    return output


def safetensors_bytes(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The tensors as the content of a safetensors file that torch and transformers take.

    Args:
        tensors: by name.
        metadata: further entries of the header.

    Raises:
        ValueError: an array that is not contiguous, of which safetensors writes wrong values.
    """
    for name, array in tensors.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"'{name}' is not contiguous.")
    return save(dict(tensors), metadata={"format": "pt", **(metadata or {})})


def write_file(path: Path, content: bytes | Callable, card: str) -> list[Path]:
    """Writes a file, and its card as FILE.md beside it; the card first.

    Args:
        path: of the file.
        content: its bytes, or a function that writes them to an open file.
        card: Markdown.

    Returns:
        Both paths.
    """
    beside = path.with_suffix(".md")
    write = content if callable(content) else lambda file: file.write(content)
    try:
        files.write_text(beside, card)
        files.replace(path, write)
    except OSError as error:
        raise _unwritable(path, error) from None
    return [path, beside]


def write_folder(path: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes a new folder: a temporary one beside it, which is then renamed.

    Args:
        path: of the folder, new or empty.
        contents: name -> bytes.
    """
    path = Path(os.path.abspath(path))
    temporary = path.with_name(f".{os.getpid()}-{path.name[:40]}.part")
    try:
        temporary.mkdir()
        for name, content in contents.items():
            files.write_bytes(temporary / name, content)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()  # only an empty one
        files.move(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [path]


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a disk "
        "with room. Type another --output."
    )
