"""Reads the text lists of data sets: UTF-8, or Latin-1 for older ones."""

from pathlib import Path

from jssl.errors import UserError
from jssl.regular import MAX_LIST, FileError, read_file


def read_text(path: Path) -> tuple[str, str]:
    """Reads a text file.

    Args:
        path: of the file.

    Returns:
        The text, and its encoding: 'utf-8', or 'latin-1' if it is not valid UTF-8.

    Raises:
        UserError: it cannot be read, is UTF-16 or is not text.
    """
    try:
        data = read_file(path, MAX_LIST)
    except FileError as error:
        raise UserError(
            f"The list '{path}' {error}. Expected it from the official archive."
        ) from error
    if b"\0" in data:
        raise UserError(
            f"The list '{path}' is no text in UTF-8 or Latin-1: found a zero byte at "
            f"{data.index(0)}. Save it as UTF-8."
        )
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
