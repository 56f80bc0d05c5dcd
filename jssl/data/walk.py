"""Lists the pictures below a folder: each real path once; counts what is passed over, by kind.

Folders are searched to any depth. Links are followed last: a link to a folder above it (a loop),
to something already read, or to nothing is passed over and counted.
"""

import collections
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from jssl.data import heif
from jssl.errors import UserError

# HEIC is read where its extra is installed.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
           *(heif.ENDINGS if heif.readable() else ()))  # fmt: skip
ARRAYS = (".npy",)  # pictures of a folder that has none with the other endings
# Folders made by operating systems and archivers.
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class LayoutError(UserError):
    """The pictures of a folder have no labels that are certain."""


class Passed:
    """Entries that were passed over: a count and the first path of each kind.

    Example:
        >>> passed = Passed()
        >>> passed.add('broken links', 'cat/1.jpg')
        >>> passed.summary()
        "1 x broken links ('cat/1.jpg')"
    """

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, path: str, count: int = 1) -> None:
        """Adds `count` entries, the first at `path`."""
        self.counts[kind] += count
        self.first.setdefault(kind, path)

    def update(self, other: "Passed", prefix: str = "") -> None:
        """Adds all entries of another, with `prefix` before their paths."""
        for kind, count in other.counts.items():
            self.add(kind, os.path.join(prefix, other.first[kind]), count)

    def summary(self) -> str:
        """Returns one line; '' if nothing was passed over."""
        shown = (f"{n} x {kind} ('{printable(self.first[kind])}')"
                 for kind, n in sorted(self.counts.items()))  # fmt: skip
        return ", ".join(shown)


def printable(name: str) -> str:
    """Returns a file name with unprintable bytes escaped."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


class Walk:
    """The pictures below a folder.

    Args:
        base: the folder.
        split_paths: real paths of the splits: a link to one of them, or to a folder above it, would
            give all its classes one label, and is passed over.
        strict: False while guessing the layout: ambiguous links are not refused.

    Attributes:
        base: the folder.
        groups: paths relative to `base`, by top-level folder; '' for those directly in `base`.
            Within a folder the files come before the sub-folders, both sorted.
        folders: names of the top-level folders, sorted; also those without pictures.
        endings: number of files with each ending that is not a picture's.
        passed: what was passed over.

    Raises:
        UserError: a folder that cannot be read, or a picture or folder that is linked into two
            top-level folders, so that its class is ambiguous.
    """

    def __init__(self, base: Path, split_paths: Iterable[str] = (), *, strict: bool = True):
        self.base = base
        self._strict = strict
        self.groups: dict[str, list[str]] = {}
        self.folders: list[str] = []
        self.endings: collections.Counter[str] = collections.Counter()
        self.passed = Passed()
        self._split_paths = tuple(split_paths)
        self._read: dict[str, tuple[str, bool]] = {}  # real folder: (group, reached by a link)
        self._linked: dict[str, str] = {}  # real path of a linked picture: group
        self._links: collections.deque = collections.deque()  # (path, real folder, group)
        self._folder("", os.path.realpath(base), "", False)
        self._follow()
        self._without_arrays()
        self.folders.sort()

    def count(self) -> int:
        """Returns the number of pictures."""
        return sum(map(len, self.groups.values()))

    def flatten(self) -> None:
        """Puts all pictures into one group without a name, for pictures without labels."""
        paths = [path for group in self.groups.values() for path in group]
        self.groups = {"": sorted(paths, key=_sort_key)} if paths else {}
        self.folders = []

    def _folder(self, path: str, real: str, group: str, by_link: bool) -> None:
        self._read[real] = (group, by_link)
        try:
            with os.scandir(self.base / path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
            inner = [entry for entry in entries if self._entry(entry, path, real, group)]
        except OSError as error:
            raise UserError(
                f"Folder '{self.base / path}' cannot be read: {error.strerror}. Expected a folder "
                "whose files may be listed."
            ) from error
        for entry in inner:
            below, at = os.path.join(path, entry.name), os.path.join(real, entry.name)
            if not path:
                self.folders.append(entry.name)
            if by_link and at in self._read:
                self._repeated(below, group, self._read[at])
            else:
                self._folder(below, at, group or entry.name, by_link)

    def _entry(self, entry: os.DirEntry, path: str, real: str, group: str) -> bool:
        """Records an entry that is not a folder, queues a link; returns True for a folder."""
        below = os.path.join(path, entry.name)
        if entry.name in JUNK:
            self.passed.add(f"'{entry.name}'", below)
        elif entry.name.startswith("."):
            folder = entry.is_dir(follow_symlinks=False)
            self.passed.add("hidden folders" if folder else "hidden files", below)
        elif entry.is_symlink():
            self._links.append((below, real, group))
        elif entry.is_dir():
            return True
        elif not entry.is_file():
            self.passed.add("pipes, sockets or devices", below)
        elif self._is_picture(below):
            self.groups.setdefault(group, []).append(below)
        return False

    def _is_picture(self, path: str) -> bool:
        if path.lower().endswith((*ENDINGS, *ARRAYS)):
            return True
        self._pass_over(path)
        return False

    def _without_arrays(self) -> None:
        """Passes over the arrays beside pictures, such as their masks or features."""
        arrays = [p for paths in self.groups.values() for p in paths if p.lower().endswith(ARRAYS)]
        if not arrays or len(arrays) == self.count():
            return
        for path in arrays:
            self._pass_over(path)
        kept = {name: [p for p in paths if not p.lower().endswith(ARRAYS)]
                for name, paths in self.groups.items()}  # fmt: skip
        self.groups = {name: paths for name, paths in kept.items() if paths}

    def _pass_over(self, path: str) -> None:
        ending = Path(path).suffix
        self.endings[ending or os.path.basename(path)] += 1
        kind = f"files ending in {printable(ending)}" if ending else "files without an ending"
        kind += f" ({heif.INSTALL} reads them)" * (ending.lower() in heif.ENDINGS)
        self.passed.add(kind, path)

    def _follow(self) -> None:
        """Reads the linked folders, which may contain further links, then the linked pictures."""
        files = []
        before = self.count()
        while self._links:
            path, folder, group = self._links.popleft()
            real = os.path.realpath(self.base / path)
            try:
                mode = os.stat(self.base / path).st_mode
            except OSError:  # the target is not there, or links lead to each other
                self.passed.add("broken links", path)
                continue
            if not stat.S_ISDIR(mode):
                files.append((path, real, group, mode))
                continue
            group = group or path
            if _holds(real, folder):
                self.passed.add("links to a folder above them (loops)", path)
            elif any(_holds(real, other) for other in self._split_paths):
                self.passed.add("links to a whole split", path)
            elif real in self._read:
                self._repeated(path, group, self._read[real])
            else:
                if os.sep not in path:
                    self.folders.append(path)
                self._folder(path, real, group, True)
        for path, real, group, mode in files:
            self._linked_file(path, real, group, mode)
        if self.count() > before:
            for paths in self.groups.values():
                paths.sort(key=_sort_key)

    def _linked_file(self, path: str, real: str, group: str, mode: int) -> None:
        if not stat.S_ISREG(mode):
            self.passed.add("pipes, sockets or devices", path)
            return
        if not self._is_picture(path):
            return
        folder, name = os.path.split(real)
        if (
            folder in self._read
            and name.lower().endswith((*ENDINGS, *ARRAYS))
            and not name.startswith(".")
        ):
            self._repeated(path, group, self._read[folder])
        elif real in self._linked:
            self._repeated(path, group, (self._linked[real], True))
        else:
            self._linked[real] = group
            self.groups.setdefault(group, []).append(path)

    def _repeated(self, path: str, group: str, before: tuple[str, bool]) -> None:
        """Passes over a repeated path; refuses two links to it, whose class is ambiguous."""
        other, by_link = before
        if by_link and other != group and self._strict:
            raise LayoutError(
                f"'{printable(path)}' in '{self.base}' links to what is linked into "
                f"'{printable(other)}' too: found one picture in two folders, expected one class "
                "for each. Remove one of the links."
            )
        self.passed.add("links to what is read already", path)


def _holds(folder: str, path: str) -> bool:
    """Whether a real path is the folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _sort_key(path: str) -> tuple[tuple[int, str], ...]:
    """Sort key: the files of a folder before its sub-folders."""
    *folders, file = path.split(os.sep)
    return (*((1, name) for name in folders), (0, file))


def merged(groups: Mapping[str, list[str]]) -> list[str]:
    """Returns the pictures of several folders of one class, in the order of the folder names."""
    return [path for name in sorted(groups) for path in groups[name]]
