"""A folder of pictures: one sub-folder a class, or one flat folder without labels.

    pictures/cat/1.jpg  pictures/dog/2.png       classes cat, dog
    pictures/train/cat/1.jpg  pictures/val/...   the same, with splits
    pictures/1.jpg  pictures/2.jpg               no labels: label -1, num_classes 0
    pictures/train/1.jpg  pictures/val/2.jpg     no labels, with splits
    pictures/train/1.jpg  pictures/labelled/cat/2.jpg  pictures/val/cat/3.jpg

Classes belong to the folder, not to a split: they are those of all its splits, numbered in the
order of their names in Unicode's normal form NFC. See `jssl.data.layout` for how a layout is
recognised, and `jssl.data.walk` for what is passed over.
"""

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import Picture
from jssl.data.layout import find_layout, find_split
from jssl.data.walk import ENDINGS, Passed, Walk, merged, printable
from jssl.errors import UserError

SHOWN = 10  # classes that are named


class FolderSource:
    """Pictures of one split of a folder; see the layouts of this file.

    Args:
        root: the folder, `config.data.data_dir`.
        split: 'train', 'probe' or 'test'.
        splits: sub-folder of each split by these names; '' looks for train, and for val, test or
            validation; that of 'probe' is then the train split's.
        layout: of `jssl.data.layout.LAYOUTS`.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        **reading: `bits` and `max_megabytes` of `Picture.read`.

    Attributes:
        class_names: of all splits of the folder; () for a split without labels.
        num_classes: as many; 0 without labels.
        labels: int32 [M].

    Raises:
        UserError: no such folder, a layout that is not certain, no pictures, one class only,
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
        found = find_layout(folder, layout, splits.values())
        own = find_split(found, folder, split, _subfolder(splits, split))
        several = [os.path.realpath(path) for path in found.splits.values()]
        walks = {name: Walk(path, several) for name, path in found.splits.items()}
        _check(walks[own], found.kind)
        for walk in walks.values():
            _leave_out(walk, found.kind)
        everywhere = {name: _by_class(walk) for name, walk in walks.items()}
        names = tuple(sorted({word for split in everywhere.values() for word in split if word}))
        _check_classes(walks[own], everywhere[own], names, split)
        self._base = found.splits[own]
        here = everywhere[own]
        self.class_names = () if set(here) == {""} else names
        self.num_classes = len(self.class_names)
        numbers = {word: i for i, word in enumerate(names)} | {"": -1}
        # Paths relative to the base, sorted: the same order on every machine.
        self._paths = [path for word in sorted(here) for path in here[word]]
        self.labels = np.repeat(
            np.array([numbers[word] for word in sorted(here)], np.int32),
            [len(here[word]) for word in sorted(here)],
        )
        self._own_names = tuple(word for word in sorted(here) if word)
        self._description = _describe(folder, found.kind, everywhere, names, found.passed, walks)

    def __len__(self) -> int:
        return len(self._paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Like `source[index]`, but the image is a `Picture` that is not decoded yet."""
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
        """Changes with the names, the order and the labels of the files, not with their content."""
        words = [path.replace("\\", "\\\\").replace("\n", "\\n") for path in self._paths]
        if self.class_names != self._own_names:  # the folders alone do not tell the labels
            words += ["", *self.class_names]
        return hashlib.sha256(os.fsencode("\n".join(words))).hexdigest()[:16]

    def description(self) -> str:
        """What was read and what was passed over, in one line."""
        return self._description


def has_split(
    root: str, split: str, splits: Mapping[str, str] | None = None, layout: str = "auto"
) -> bool:
    """Whether a folder of pictures has a split; every folder has 'train'."""
    splits, folder = _normal(splits), Path(root).expanduser()
    if split != "test":
        return True
    found = find_layout(folder, layout, splits.values())
    try:
        find_split(found, folder, split, splits.get(split, ""))
    except UserError:
        return False
    return True


def _normal(splits: Mapping[str, str] | None) -> dict[str, str]:
    """Names of splits as folders are listed: 'val' for 'val/' and './val'."""
    return {split: name and os.path.normpath(name) for split, name in (splits or {}).items()}


def _subfolder(splits: Mapping[str, str], split: str) -> str:
    return splits.get(split, "") or (splits.get("train", "") if split == "probe" else "")


def _by_class(walk: Walk) -> dict[str, list[str]]:
    """Pictures by the name of their class in NFC; the same name in NFC and NFD is one class."""
    folders: dict[str, dict[str, list[str]]] = {}
    for name, paths in walk.groups.items():
        folders.setdefault(unicodedata.normalize("NFC", name), {})[name] = paths
    return {word: merged(groups) for word, groups in folders.items()}


def _check(walk: Walk, kind: str) -> None:
    """Refuses a split without pictures, and one that holds pictures and class folders."""
    pictures, groups = walk.groups.get("", []), {**walk.groups}
    groups.pop("", None)
    if not (walk.count() if kind == "splits" else len(groups if kind == "classes" else pictures)):
        most = walk.endings.most_common(5)
        found = ", ".join(f"{n} x '{printable(ending)}'" for ending, n in most)
        if walk.count():
            found = f"{len(groups)} folders" if kind == "flat" else f"{len(pictures)} pictures"
            found += f", which data.layout={kind} passes over"
        raise UserError(
            f"Folder '{walk.base}' holds no pictures: found {found or 'no files'}; expected files "
            f"that end in {' '.join(ENDINGS)}. Type --config.data.data_dir=FOLDER."
        )
    if kind == "splits" and pictures and groups:
        raise UserError(
            f"Folder '{walk.base}' holds {len(pictures)} pictures (such as "
            f"'{printable(pictures[0])}') beside {len(groups)} folders (such as "
            f"'{printable(min(groups))}'); expected either one sub-folder a class and no pictures "
            "beside them, or pictures only (no labels). Move one of the two."
        )


def _leave_out(walk: Walk, kind: str) -> None:
    """Drops what the layout passes over, and counts it."""
    labelled = kind == "classes" or (kind == "splits" and set(walk.groups) != {""})
    if labelled:
        beside = walk.groups.pop("", [])
        if beside:
            walk.passed.add("pictures beside the class folders", beside[0], len(beside))
    for name in walk.folders:
        if name not in walk.groups:
            walk.passed.add("folders without pictures", name)
        elif not labelled:
            walk.passed.add("folders beside the pictures", name)
            del walk.groups[name]


def _check_classes(
    walk: Walk, here: Mapping[str, list[str]], names: tuple[str, ...], split: str
) -> None:
    populated = [word for word in sorted(here) if word]
    if len(populated) == 1 and (split != "test" or len(names) == 1):
        name = populated[0]
        raise UserError(
            f"Folder '{walk.base}' holds one class: found {len(here[name])} pictures, all in "
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
    for name, here in splits.items():
        passed.update(walks[name].passed, name)
        words = f"{name} ".lstrip() + f"{sum(map(len, here.values())):,} pictures"
        if set(here) <= {""}:
            words += " without labels"
        elif lacking := [word for word in names if word not in here]:
            words += f" of {len(here)} classes, none of {_listed(lacking)}"
        else:
            words += f" of {len(here)} classes"
        parts.append(words)
    classes = f"{len(names)} classes: {_listed(names)}" if names else "no classes"
    said = passed.words()
    end = f"passed over: {said}" if said else "nothing passed over"
    return f"folder '{printable(root.name)}' read as {kind}: {'; '.join(parts)}; {classes}; {end}"


def _listed(names: Any) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more
