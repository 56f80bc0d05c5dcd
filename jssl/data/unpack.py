"""Unpacks an untrusted tar file: regular files and folders only, below one folder.

`tarfile`'s own filters rely on path resolution of the system, and could be led outside by links
and by very long paths (CVE-2025-4517). Here links are refused, and every path is compared with the
real one before and after it is written.
"""

import os
import tarfile
from pathlib import Path
from typing import Self

from jssl.regular import check_regular

MAX_MEMBERS = 2_000_000
MAX_TIMES = 100  # largest ratio of unpacked to archive size; pictures do not compress so well
SMALL = 2**30  # bytes that any archive may unpack to
MAX_NAME = 1024  # bytes of a path in the archive; systems allow 4096 with the folder before it
MAX_HEADER = 2**20  # bytes of a long name or other header of a member, read at once
COPY = 2**20
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class MemberError(ValueError):
    """A member that must not be unpacked."""


class Member(tarfile.TarInfo):
    """A header that is read in bounded memory, and whose damage is not taken for the end.

    The ignored types here and below exist in tarfile since Python 3.2, but not in its stubs.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the zeros that end an archive
            raise
        except tarfile.HeaderError as error:
            if not tar.offset:
                raise  # another compression, or no tar at all
            raise tarfile.ReadError(_error_message(error, tar.offset)) from error

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in (*FILES, tarfile.DIRTYPE) and self.size > MAX_HEADER:
            raise MemberError(f"'{self.name}' has a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _block(self, count: int) -> int:
        if count < 0:  # an infinite loop (CVE-2025-8194)
            raise MemberError(f"'{self.name}' has a size below 0")
        return super()._block(count)  # type: ignore[misc]


def _error_message(error: Exception, offset: int) -> str:
    if isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
        return "it has no end"
    return f"{error} at byte {offset:,}"


def unpack(archive: Path, folder: Path) -> int:
    """Unpacks a tar file, compressed or not, into an empty folder.

    Args:
        archive: a regular file.
        folder: target; nothing is written outside of it.

    Returns:
        The number of files written.

    Raises:
        MemberError: a member that is neither file nor folder, lies outside, occurs twice or has a
            long path; or too many or too large members.
        FileError: the archive is no regular file.
        OSError, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError: damage, or a full disk.
    """
    allowed = max(SMALL, MAX_TIMES * check_regular(os.stat(archive), 2**63))
    base = os.path.realpath(folder)
    total = files = 0
    with tarfile.open(archive, tarinfo=Member) as tar:
        for number, member in enumerate(iter(tar.next, None)):
            if number >= MAX_MEMBERS:
                raise MemberError(f"it has more than {MAX_MEMBERS:,} members")
            path = _checked_path(member, base)
            total += member.size
            if total > allowed:
                raise MemberError(
                    f"its members hold more than {allowed:,} bytes, {MAX_TIMES} times its own size"
                )
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            else:
                _write(tar, member, path)
                files += 1
            if os.path.realpath(path) != path:
                raise MemberError(f"'{member.name}' is outside the folder")
            # A million headers would fill the memory.
            tar.members = []  # type: ignore[attr-defined]
    return files


def _checked_path(member: tarfile.TarInfo, base: str) -> str:
    """Returns the real path of a member, after checking that it is inside the folder."""
    name = member.name
    kinds = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
    if member.type not in (*FILES, tarfile.DIRTYPE) or member.sparse is not None:
        kind = kinds.get(member.type, "a device, a pipe or a sparse file")
        raise MemberError(f"'{name}' is {kind}; expected files and folders only")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or len(os.fsencode(name)) > MAX_NAME:
        raise MemberError(f"'{name[:80]}' is not a path inside the folder")
    path = os.path.join(base, *parts)
    if os.path.realpath(path) != path:
        raise MemberError(f"'{name}' is outside the folder")
    return path


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # None only for folders, see `unpack`
    try:
        file = open(path, "xb")  # never overwrites
    except FileExistsError:
        raise MemberError(f"'{member.name}' occurs twice") from None
    with file, source:
        left = member.size
        while left:
            chunk = source.read(min(COPY, left))
            if not chunk:
                raise tarfile.ReadError(f"'{member.name}' is cut short")
            file.write(chunk)
            left -= len(chunk)
