"""Reads files of unknown origin: regular ones only, and none of more than a stated size.

A pipe or a device with the name of a picture would be waited for or read without end, and a file
with holes can be larger than the memory although it takes no room on the disk.
"""

import os
import stat
from pathlib import Path

from jssl.errors import UserError

MAX_MEGABYTES = 1024  # of a picture, by default: 89 megapixels of 16 bits and 4 channels are 716
MAX_LIST = 256 * 2**20  # bytes of a list


class FileError(UserError):
    """A file that cannot be read, or must not be: its text is what comes after its name.

    Attributes:
        large: whether it is too large, and nothing else.
    """

    def __init__(self, text: str, *, large: bool = False):
        super().__init__(text)
        self.large = large


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Reads a whole regular file; a link to one counts as one.

    Args:
        path: of the file.
        max_bytes: the largest size that is read.

    Raises:
        FileError: it cannot be read, is no regular file, or is larger.

    Example:
        >>> read_file('/dev/zero', 9)
        Traceback (most recent call last):
        ...
        jssl.regular.FileError: is no regular file but a device
    """
    try:
        # Opening can act on a device: it is looked at first. What is at the name may change
        # until it is open: it is looked at again, and opened without waiting for a writer.
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
    """The size of a regular file in bytes.

    Raises:
        FileError: it is something else, or larger.
    """
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(found.st_mode), "a device")
        raise FileError(f"is no regular file but {what}")
    if found.st_size > max_bytes:
        raise FileError(f"has {found.st_size:,} bytes; expected at most {max_bytes:,}", large=True)
    return found.st_size
