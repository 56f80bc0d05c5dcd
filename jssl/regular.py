"""Reads untrusted files: only regular ones, up to a given size.

Reading a pipe or a device may never end, and a sparse file can be larger than the memory although
it takes no room on the disk.
"""

import os
import stat
from pathlib import Path

from jssl.errors import UserError

MAX_MEGABYTES = 1024  # of a picture, by default: 89 megapixels of 16 bits and 4 channels are 716
MAX_LIST = 256 * 2**20  # bytes of a list


class FileError(UserError):
    """A file that cannot be read, or must not be: the text continues after the file's name.

    Attributes:
        large: whether the only fault is its size.
    """

    def __init__(self, text: str, *, large: bool = False):
        super().__init__(text)
        self.large = large


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Reads a whole regular file; a link to one counts as one.

    Args:
        path: of the file.
        max_bytes: largest size.

    Raises:
        FileError: the file cannot be read, is not regular, or is larger.

    Example:
        >>> read_file('/dev/zero', 9)
        Traceback (most recent call last):
        ...
        jssl.regular.FileError: is no regular file but a device
    """
    try:
        # Opening a device can have effects, so check first. The file may be replaced before it
        # is open, so check again, and open it without waiting for a writer.
        check_regular(os.stat(path), max_bytes)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            size = check_regular(os.fstat(descriptor), max_bytes)
            data = file.read(max_bytes + 1)
    except FileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise FileError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > max_bytes:
        raise FileError(f"grew while it was read: it had {size:,} bytes")
    return data


def check_regular(found: os.stat_result, max_bytes: int) -> int:
    """Returns the size of a regular file in bytes.

    Raises:
        FileError: the file is not regular, or larger.
    """
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(found.st_mode), "a device")
        raise FileError(f"is no regular file but {what}")
    if found.st_size > max_bytes:
        raise FileError(f"has {found.st_size:,} bytes; expected at most {max_bytes:,}", large=True)
    return found.st_size
