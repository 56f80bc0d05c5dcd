"""Pictures by their paths: files, folders and patterns, and every picture of a folder."""

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data import folder as folder_lib
from jssl.data.build import DEFAULTS, SPLITS, check_reading, make_source
from jssl.data.decode import Picture
from jssl.data.layout import find_layout
from jssl.data.sources import Source
from jssl.data.walk import ARRAYS, ENDINGS, LayoutError, Walk, merged, printable
from jssl.errors import UserError


def find_pictures(inputs: Iterable[str | Path]) -> list[str]:
    """Lists the pictures of files, folders and patterns, each path once.

    Args:
        inputs: paths of files, which are taken as they are; of folders, which are searched to any
            depth for the endings of pictures; or patterns with `*`, `?` or `**`.

    Returns:
        The paths, as they were typed, in that order; those of a folder or pattern are sorted.

    Raises:
        UserError: an input that does not exist, or that holds no pictures.

    Example:
        >>> find_pictures(['no_such.jpg'])
        Traceback (most recent call last):
        jssl.errors.UserError: 'no_such.jpg' does not exist: expected a picture, a folder or a \
pattern such as 'photos/*.jpg'.
    """
    paths: list[str] = []
    for name in inputs:
        expanded = os.path.expanduser(os.fspath(name))
        if os.path.isdir(expanded):
            paths += _below(expanded)
        elif os.path.lexists(expanded):
            paths.append(expanded)
        else:
            paths += _matching(expanded)
    return list(dict.fromkeys(paths))


def _below(folder: str) -> list[str]:
    walk = Walk(Path(folder), strict=False)
    if not walk.count():
        raise UserError(
            f"Folder '{folder}' holds no pictures: expected files that end in "
            f"{' '.join((*ENDINGS, *ARRAYS))}."
        )
    return [os.path.join(folder, path) for path in merged(walk.groups)]


def _matching(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        raise UserError(
            f"'{printable(pattern)}' does not exist: expected a picture, a folder or a pattern "
            "such as 'photos/*.jpg'."
        )
    matches = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    paths = [path for path in matches if path.lower().endswith(ENDINGS)]
    paths = paths or [path for path in matches if path.lower().endswith(ARRAYS)]
    if not paths:
        raise UserError(
            f"The pattern '{printable(pattern)}' matches {len(matches)} files and no picture: "
            f"expected files that end in {' '.join((*ENDINGS, *ARRAYS))}."
        )
    return paths


class FileSource:
    """Picture files without labels, as a source.

    Args:
        paths: of the files.
        name: of the data set.
        on_error: 'stop' or 'skip': what the pipeline does with a picture that cannot be used.
        **reading: the keys of `Picture.read`.

    Attributes:
        paths: of the files.
    """

    num_classes = 0
    class_names: tuple[str, ...] = ()
    image_shape = None  # pictures differ in size

    def __init__(
        self,
        paths: Sequence[str],
        *,
        name: str = "files",
        on_error: str = "stop",
        **reading: Any,
    ):
        self.paths, self.name, self.on_error = tuple(paths), name, on_error
        self._reading = reading

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        picture = Picture.read(self.paths[index], **self._reading)
        return {"image": picture, "label": np.int32(-1), "index": np.int32(index)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of the paths, not of the content of the files."""
        return hashlib.sha256(os.fsencode("\0".join(self.paths))).hexdigest()[:16]


class Joined:
    """Several sources of one data set after each other, as a source with paths.

    Args:
        parts: splits of a folder; the classes of those with labels are the same.
    """

    def __init__(self, parts: Sequence[folder_lib.FolderSource]):
        first = max(parts, key=lambda part: part.num_classes)
        self.name, self.num_classes = first.name, first.num_classes
        self.class_names, self.on_error = first.class_names, first.on_error
        self.image_shape = None
        self.paths = tuple(path for part in parts for path in part.paths)
        self._parts, self._description = parts, first.description()
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        example = part.encoded(index - int(self._ends[number]) + len(part))
        return {**example, "index": np.int32(index)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of those of the parts."""
        parts = " ".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def description(self) -> str:
        """Returns one line on what was read and what was passed over."""
        return self._description


def every_picture(config: Any) -> Source:
    """Returns all pictures of a folder, those of all its splits, as one source.

    Where the folder has a layout that jssl reads, the pictures have its labels. A folder that can
    be read in several ways, such as one with pictures beside sub-folders, is searched to any depth
    and has no labels; its description says why.

    Args:
        config: the `data` section, of a data set with the name 'folder'.

    Raises:
        UserError: no such folder, or one without pictures.
    """
    reading = check_reading(config)
    named = {f"{split}_split": config[f"{split}_split"] for split in SPLITS}
    layout = config.get("layout", DEFAULTS["layout"])
    root = Path(config.data_dir).expanduser()
    if not config.data_dir or not root.is_dir():
        return make_source(config, "train")  # raises what is missing
    try:
        detected = find_layout(root, layout, named.values())
        if detected.kind != "splits":
            return make_source(config, "train")
        parts = [
            folder_lib.FolderSource(
                config.data_dir,
                "test",
                splits={**{key.removesuffix("_split"): name for key, name in named.items()},
                        "test": split},
                layout="splits",
                on_error=config.on_error,
                **reading,
            )
            for split, path in detected.splits.items()
            if Walk(path, strict=False).count()
        ]  # fmt: skip
        return Joined(parts) if parts else make_source(config, "train")  # which raises
    except LayoutError as error:
        paths = find_pictures([config.data_dir])
        name = f"folder:{Path(config.data_dir).name}"
        why = str(error).partition(" Type ")[0]
        return _Unlabelled(paths, name=name, why=why, on_error=config.on_error, **reading)


class _Unlabelled(FileSource):
    def __init__(self, paths: Sequence[str], *, why: str, **options: Any):
        super().__init__(paths, **options)
        self._why = why

    def description(self) -> str:
        return f"{self.name}: {len(self):,} pictures, all of them without labels. {self._why}"
