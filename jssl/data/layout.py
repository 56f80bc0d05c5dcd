"""Recognises the layout of a folder of pictures: `config.data.layout`.

    splits    FOLDER/train/...  FOLDER/val/...     every sub-folder is a split
    classes   FOLDER/cat/1.jpg  FOLDER/dog/2.png   every sub-folder is a class; no splits
    flat      FOLDER/1.jpg      FOLDER/2.jpg       no labels, no splits
    nested    FOLDER/1.jpg      FOLDER/a/b/2.jpg   every picture at any depth; no labels, no splits
    auto      one of the first three; an ambiguous folder is refused

A split holds class folders or, without labels, pictures only.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jssl.data.walk import ENDINGS, JUNK, LayoutError, Passed, Walk, printable
from jssl.errors import UserError, nearest

LAYOUTS = ("auto", "splits", "classes", "flat", "nested")
# Sub-folder names of a split; the first that exists is used.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test", "validation")}
KNOWN = ("train", "val", "test", "validation")
# Other common names of splits: only used as splits if the user says so.
LIKE_SPLITS = {*KNOWN, "training", "trainval", "valid", "testing", "dev", "eval", "labelled",
               "labeled", "unlabelled", "unlabeled"}  # fmt: skip


class Layout(NamedTuple):
    """The layout of a folder.

    Attributes:
        kind: 'splits', 'classes', 'flat' or 'nested'.
        splits: the folder of each split by its name; of the other kinds {'': the folder}.
        passed: what is passed over at the top level.
    """

    kind: str
    splits: dict[str, Path]
    passed: Passed


def find_layout(root: Path, layout: str = "auto", named: Iterable[str] = ()) -> Layout:
    """Determines the layout of a folder.

    Args:
        root: the folder.
        layout: of `LAYOUTS`.
        named: sub-folders that the config names as splits; '' for none.

    Raises:
        UserError: an unknown layout, no such folder, split names with another layout, or an
            ambiguous folder.
    """
    named = [name for name in named if name]
    if layout not in LAYOUTS:
        raise UserError(f"Unknown data.layout='{layout}': {nearest(layout, LAYOUTS)}.")
    if not root.is_dir():
        raise UserError(
            f"Folder '{root}' does not exist; expected a folder of pictures. "
            "Type --config.data.data_dir=FOLDER."
        )
    if named and layout in ("classes", "flat", "nested"):
        raise UserError(
            f"data.layout={layout} has no splits, but the config names the split '{named[0]}'. "
            "Type --config.data.layout=splits, or leave the names of splits out."
        )
    if layout == "auto":
        layout = "splits" if named else _guess(root)
    if layout != "splits":
        return Layout(layout, {"": root}, Passed())
    passed, splits = Passed(), {}
    for name in _folders(root):
        if not any(other.startswith(name + "/") for other in named):
            splits[name] = root / name
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            passed.add("hidden folders" if entry.is_dir() else "hidden files", entry.name)
        elif entry.name in JUNK:
            passed.add(f"'{entry.name}'", entry.name)
        elif not entry.is_dir():
            passed.add("files beside the splits", entry.name)
    splits |= {name: root / name for name in named if (root / name).is_dir()}
    return Layout(layout, splits, passed)


def find_split(layout: Layout, root: Path, split: str, subfolder: str = "") -> str:
    """Returns the sub-folder of a split; '' if the whole folder is the train split.

    Args:
        layout: of the folder.
        root: the folder.
        split: 'train', 'probe' or 'test'.
        subfolder: from the config; '' means train, and val, test or validation.

    Raises:
        UserError: there is none.
    """
    if layout.kind != "splits" and split != "test" and not subfolder:
        return ""
    names = (subfolder,) if subfolder else SPLIT_FOLDERS["test" if split == "test" else "train"]
    for name in names:
        if name in layout.splits:
            return name
    found = ", ".join(map(printable, _folders(root)[:10])) or "none"
    raise UserError(
        f"Folder '{root}' has no sub-folder {' or '.join(names)} for the {split} split; found "
        f"sub-folders: {found}. Make one, or type --config.data.{split}_split=SUBFOLDER."
    )


def _folders(root: Path) -> list[str]:
    """Returns the names of the visible sub-folders, including links to folders."""
    return sorted(
        p.name for p in root.iterdir()
        if not p.name.startswith(".") and p.name not in JUNK and p.is_dir()
    )  # fmt: skip


def _guess(root: Path) -> str:
    folders = _folders(root)
    pictures = (p for p in root.iterdir() if p.name.lower().endswith(ENDINGS) and p.is_file())
    if folders and set(folders) <= set(KNOWN) and all(p.name[0] == "." for p in pictures):
        return "splits"  # unambiguous: no need to read the folders twice
    walk = Walk(root, strict=False)
    num_loose = len(walk.groups.get("", ()))
    nonempty = [name for name in folders if walk.groups.get(name)]
    known = [name for name in nonempty if name in KNOWN]
    if known and len(known) == len(nonempty) and not num_loose:
        return "splits"
    readings = []
    if known or _like_splits(walk, nonempty):
        readings.append(_as_splits(walk, nonempty))
    if nonempty:
        num_pictures = sum(len(walk.groups[name]) for name in nonempty)
        listed = ", ".join(map(printable, nonempty[:10])) + (", ..." if len(nonempty) > 10 else "")
        readings.append(
            ("classes", f"{len(nonempty)} classes ({listed}) with {num_pictures} pictures")
        )
    if num_loose or not nonempty:
        first = printable(walk.groups[""][0]) if num_loose else ""
        readings.append(("flat", f"{num_loose} pictures without labels (such as '{first}')"))
    if len(readings) > 1:
        _refuse(root, walk, nonempty, readings)
    return readings[0][0]


def _as_splits(walk: Walk, nonempty: Sequence[str]) -> tuple[str, str]:
    parts = []
    for name in nonempty[:10]:
        classes = {p.split(os.sep)[1] for p in walk.groups[name] if p.count(os.sep) > 1}
        labels = f"{len(classes)} classes" if classes else "no labels"
        parts.append(f"{printable(name)} with {len(walk.groups[name])} pictures and {labels}")
    return "splits", f"{len(nonempty)} splits ({', '.join(parts)})"


def _like_splits(walk: Walk, nonempty: Sequence[str]) -> bool:
    """Whether sub-folders have split names, or two of them contain the same two folders."""
    if any(name.lower() in LIKE_SPLITS for name in nonempty):
        return True
    seen: set[str] = set()
    shared = 0
    for name in nonempty:
        depths = [p.split(os.sep) for p in walk.groups[name]]
        if any(len(parts) == 2 for parts in depths):
            return False
        inner = {parts[1] for parts in depths}
        shared += len(inner & seen) >= 2
        seen |= inner
    return shared > 0


def _refuse(
    root: Path, walk: Walk, nonempty: Sequence[str], readings: Sequence[tuple[str, str]]
) -> None:
    loose = walk.groups.get("", ())
    mixed = (
        f" holds {len(loose)} pictures (such as '{printable(loose[0])}') beside {len(nonempty)} "
        f"folders (such as '{printable(nonempty[0])}') and"
        if loose
        else ""
    )
    ways = {2: "two", 3: "three"}[len(readings)]
    raise LayoutError(
        f"Folder '{root}'{mixed} can be read in {ways} ways: "
        + ", or ".join(f"as {text}" for _, text in readings)
        + ". Type "
        + " or ".join(f"--config.data.layout={kind}" for kind, _ in readings)
        + "."
        + _labelled(walk, nonempty)
    )


def _labelled(walk: Walk, nonempty: Sequence[str]) -> str:
    """Returns advice for unlabelled training pictures next to labelled ones."""
    inner = {name for name in nonempty if any(p.count(os.sep) > 1 for p in walk.groups[name])}
    others = sorted(inner - set(KNOWN))
    if "train" not in nonempty or "train" in inner or not others:
        return ""
    return (
        f" To train without labels and probe with those of '{printable(others[0])}' type "
        f"--config.data.probe_split={printable(others[0])}."
    )
