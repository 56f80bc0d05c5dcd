"""Pictures in a folder: one sub-folder per class, or one flat folder without labels.

    pictures/cat/1.jpg  pictures/dog/2.png       classes cat, dog
    pictures/train/cat/1.jpg  pictures/val/...   the same, with splits
    pictures/1.jpg  pictures/2.jpg               no labels: label -1, num_classes 0
    pictures/1.jpg  pictures/a/b/2.jpg           the same with layout 'nested'
    pictures/train/1.jpg  pictures/val/2.jpg     no labels, with splits
    pictures/train/1.jpg  pictures/labelled/cat/2.jpg  pictures/val/cat/3.jpg

The classes are those of all splits of the folder, numbered in the order of their names in Unicode
normal form NFC. See `jssl.data.layout` for how a layout is recognised, and `jssl.data.walk` for
what is passed over.
"""

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data import heif
from jssl.data.decode import Picture
from jssl.data.layout import find_layout, find_split
from jssl.data.walk import ARRAYS, ENDINGS, LayoutError, Passed, Walk, merged, printable
from jssl.errors import UserError

SHOWN = 10  # classes listed by name


class FolderSource:
    """Pictures of one split of a folder; see the layouts of this file.

    Args:
        root: the folder, `config.data.data_dir`.
        split: 'train', 'probe' or 'test'.
        splits: sub-folder of each split; '' means train, and val, test or validation; for 'probe'
            it then means the train split.
        layout: of `jssl.data.layout.LAYOUTS`.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        **reading: the keys of `Picture.read`.

    Attributes:
        class_names: of all splits of the folder; () for a split without labels.
        num_classes: their number; 0 without labels.
        labels: int32 [M].
        paths: of the files, below `root` as it was typed.

    Raises:
        UserError: no such folder, an ambiguous layout, no pictures, one class only,
            pictures beside class folders, or no sub-folder for the split.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        splits: Mapping[str, str] | None = None,
        layout: str = "auto",
        on_error: str = "stop",
        **reading: Any,
    ):
        splits, folder = _normal(splits), Path(root).expanduser()
        self.name = f"folder:{Path(root).name}"
        self.on_error, self._reading = on_error, reading
        self.image_shape = None  # pictures differ in size
        detected = find_layout(folder, layout, splits.values())
        split_folder = find_split(detected, folder, split, _subfolder(splits, split))
        split_paths = [os.path.realpath(path) for path in detected.splits.values()]
        nested = detected.kind == "nested"  # without classes a link cannot be ambiguous
        walks = {
            name: Walk(path, split_paths, strict=not nested)
            for name, path in detected.splits.items()
        }
        for walk in walks.values():
            if nested:
                walk.flatten()
        _check(walks[split_folder], detected.kind)
        for walk in walks.values():
            _leave_out(walk, detected.kind)
        by_split = {name: _by_class(walk) for name, walk in walks.items()}
        names = tuple(sorted({name for split in by_split.values() for name in split if name}))
        _check_classes(walks[split_folder], by_split[split_folder], names, split)
        self._base = detected.splits[split_folder]
        by_class = by_split[split_folder]
        self.class_names = () if set(by_class) == {""} else names
        self.num_classes = len(self.class_names)
        numbers = {name: i for i, name in enumerate(names)} | {"": -1}
        # Paths relative to the base, sorted: the same order on every machine.
        self._paths = [path for name in sorted(by_class) for path in by_class[name]]
        self.labels = np.repeat(
            np.array([numbers[name] for name in sorted(by_class)], np.int32),
            [len(by_class[name]) for name in sorted(by_class)],
        )
        self._own_names = tuple(name for name in sorted(by_class) if name)
        self._description = _describe(
            folder, detected.kind, by_split, names, detected.passed, walks
        )

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(str(self._base / path) for path in self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        path = self._base / self._paths[index]
        return {
            "image": Picture.read(path, **self._reading),
            "label": self.labels[index],
            "index": np.int32(index),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of the names, order and labels of the files, not of their content."""
        lines = [path.replace("\\", "\\\\").replace("\n", "\\n") for path in self._paths]
        if self.class_names != self._own_names:  # the folders alone do not determine the labels
            lines += ["", *self.class_names]
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]

    def description(self) -> str:
        """Returns one line on what was read and what was passed over."""
        return self._description


def has_split(
    root: str, split: str, splits: Mapping[str, str] | None = None, layout: str = "auto"
) -> bool:
    """Whether a folder of pictures has a split; every folder has 'train'."""
    splits, folder = _normal(splits), Path(root).expanduser()
    if split != "test":
        return True
    detected = find_layout(folder, layout, splits.values())
    try:
        find_split(detected, folder, split, splits.get(split, ""))
    except UserError:
        return False
    return True


def _normal(splits: Mapping[str, str] | None) -> dict[str, str]:
    """Normalises the sub-folder names of splits: 'val' for 'val/' and './val'."""
    return {split: name and os.path.normpath(name) for split, name in (splits or {}).items()}


def _subfolder(splits: Mapping[str, str], split: str) -> str:
    return splits.get(split, "") or (splits.get("train", "") if split == "probe" else "")


def _by_class(walk: Walk) -> dict[str, list[str]]:
    """Groups pictures by class name in NFC; the same name in NFC and NFD is one class."""
    folders: dict[str, dict[str, list[str]]] = {}
    for name, paths in walk.groups.items():
        folders.setdefault(unicodedata.normalize("NFC", name), {})[name] = paths
    return {name: merged(groups) for name, groups in folders.items()}


def _check(walk: Walk, kind: str) -> None:
    """Raises UserError for a split without pictures, or with pictures and class folders."""
    pictures, groups = walk.groups.get("", []), {**walk.groups}
    groups.pop("", None)
    if not (walk.count() if kind == "splits" else len(groups if kind == "classes" else pictures)):
        most = walk.endings.most_common(5)
        found = ", ".join(f"{n} x '{printable(ending)}'" for ending, n in most)
        if walk.count():
            found = f"{len(groups)} folders" if kind == "flat" else f"{len(pictures)} pictures"
            found += f", which data.layout={kind} passes over"
        advice = "Type --config.data.data_dir=FOLDER."
        if any(ending.lower() in heif.ENDINGS for ending in walk.endings):
            advice = f"To read HEIC type {heif.INSTALL}."
        raise UserError(
            f"Folder '{walk.base}' holds no pictures: found {found or 'no files'}; expected files "
            f"that end in {' '.join((*ENDINGS, *ARRAYS))}. {advice}"
        )
    if kind == "splits" and pictures and groups:
        raise LayoutError(
            f"Folder '{walk.base}' holds {len(pictures)} pictures (such as "
            f"'{printable(pictures[0])}') beside {len(groups)} folders (such as "
            f"'{printable(min(groups))}'); expected either one sub-folder a class and no pictures "
            "beside them, or pictures only (no labels). Move one of the two."
        )


def _leave_out(walk: Walk, kind: str) -> None:
    """Drops and counts what the layout ignores."""
    labelled = kind == "classes" or (kind == "splits" and set(walk.groups) != {""})
    if labelled:
        stray = walk.groups.pop("", [])
        if stray:
            walk.passed.add("pictures beside the class folders", stray[0], len(stray))
    for name in walk.folders:
        if name not in walk.groups:
            walk.passed.add("folders without pictures", name)
        elif not labelled:
            walk.passed.add("folders beside the pictures", name)
            del walk.groups[name]


def _check_classes(
    walk: Walk, by_class: Mapping[str, list[str]], names: tuple[str, ...], split: str
) -> None:
    populated = [name for name in sorted(by_class) if name]
    if len(populated) == 1 and (split != "test" or len(names) == 1):
        name = populated[0]
        raise LayoutError(
            f"Folder '{walk.base}' holds one class: found {len(by_class[name])} pictures, all in "
            f"'{name}'; expected two sub-folders or more, one a class. For pictures without labels "
            f"name the flat folder that holds them. Type --config.data.data_dir={walk.base / name}"
        )


def _describe(
    root: Path,
    kind: str,
    splits: Mapping[str, Mapping[str, list[str]]],
    names: tuple[str, ...],
    top: Passed,
    walks: Mapping[str, Walk],
) -> str:
    parts, passed = [], Passed()
    passed.update(top)
    for name, by_class in splits.items():
        passed.update(walks[name].passed, name)
        text = f"{name} ".lstrip() + f"{sum(map(len, by_class.values())):,} pictures"
        if set(by_class) <= {""}:
            text += " without labels"
        elif missing := [class_name for class_name in names if class_name not in by_class]:
            text += f" of {len(by_class)} classes, none of {_listed(missing)}"
        else:
            text += f" of {len(by_class)} classes"
        parts.append(text)
    classes = f"{len(names)} classes: {_listed(names)}" if names else "no classes"
    skipped = passed.summary()
    end = f"passed over: {skipped}" if skipped else "nothing passed over"
    return f"folder '{printable(root.name)}' read as {kind}: {'; '.join(parts)}; {classes}; {end}"


def _listed(names: Any) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + rest
