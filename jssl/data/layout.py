"""How a folder of pictures is laid out: `config.data.layout`.

    splits    FOLDER/train/...  FOLDER/val/...     every sub-folder is a split
    classes   FOLDER/cat/1.jpg  FOLDER/dog/2.png   every sub-folder is a class; no splits
    flat      FOLDER/1.jpg      FOLDER/2.jpg       no labels, no splits
    auto      one of them; a folder that can be read in two ways is refused

A split holds class folders or, without labels, pictures only.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jssl.data.walk import ENDINGS, JUNK, Passed, Walk, printable
from jssl.errors import UserError, nearest

LAYOUTS = ("auto", "splits", "classes", "flat")
# Names of the sub-folder that holds a split, the first one found.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test", "validation")}
KNOWN = ("train", "val", "test", "validation")
# Also names that others give to splits: not taken for such without a word of the user.
LIKE_SPLITS = {*KNOWN, "training", "trainval", "valid", "testing", "dev", "eval", "labelled",
               "labeled", "unlabelled", "unlabeled"}  # fmt: skip


class Layout(NamedTuple):
    """How a folder is read.

    Attributes:
        kind: 'splits', 'classes' or 'flat'.
        splits: the folder of each split by its name; of the other kinds {'': the folder}.
        passed: what is passed over at the top.
    """

    kind: str
    splits: dict[str, Path]
    passed: Passed


def find_layout(root: Path, layout: str = "auto", named: Iterable[str] = ()) -> Layout:
    """Finds out how a folder is laid out.

    Args:
        root: the folder.
        layout: of `LAYOUTS`.
        named: sub-folders that the config names as splits; '' for none.

    Raises:
        UserError: an unknown layout, no such folder, splits named of another layout, or a folder
            that can be read in two ways.
    """
    named = [name for name in named if name]
    if layout not in LAYOUTS:
        raise UserError(f"Unknown data.layout='{layout}': {nearest(layout, LAYOUTS)}.")
    if not root.is_dir():
        raise UserError(
            f"Folder '{root}' does not exist; expected a folder of pictures. "
            "Type --config.data.data_dir=FOLDER."
        )
    if named and layout in ("classes", "flat"):
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
    """The name of the sub-folder of a split; '' where the whole folder is the train split.

    Args:
        layout: of the folder.
        root: the folder.
        split: 'train', 'probe' or 'test'.
        subfolder: what the config names; '' looks for train, and for val, test or validation.

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
    """Names of the visible sub-folders, links to folders among them."""
    return sorted(
        p.name for p in root.iterdir()
        if not p.name.startswith(".") and p.name not in JUNK and p.is_dir()
    )  # fmt: skip


def _guess(root: Path) -> str:
    folders = _folders(root)
    pictures = (p for p in root.iterdir() if p.name.lower().endswith(ENDINGS) and p.is_file())
    if folders and set(folders) <= set(KNOWN) and all(p.name[0] == "." for p in pictures):
        return "splits"  # nothing else to think of: the folders are not read twice
    whole = Walk(root, strict=False)
    beside = len(whole.groups.get("", ()))
    filled = [name for name in folders if whole.groups.get(name)]
    known = [name for name in filled if name in KNOWN]
    if known and len(known) == len(filled) and not beside:
        return "splits"
    readings = []
    if known or _like_splits(whole, filled):
        readings.append(_as_splits(whole, filled))
    if filled:
        counted = sum(len(whole.groups[name]) for name in filled)
        listed = ", ".join(map(printable, filled[:10])) + (", ..." if len(filled) > 10 else "")
        readings.append(("classes", f"{len(filled)} classes ({listed}) with {counted} pictures"))
    if beside or not filled:
        first = printable(whole.groups[""][0]) if beside else ""
        readings.append(("flat", f"{beside} pictures without labels (such as '{first}')"))
    if len(readings) > 1:
        _refuse(root, whole, filled, readings)
    return readings[0][0]


def _as_splits(whole: Walk, filled: Sequence[str]) -> tuple[str, str]:
    parts = []
    for name in filled[:10]:
        classes = {p.split(os.sep)[1] for p in whole.groups[name] if p.count(os.sep) > 1}
        what = f"{len(classes)} classes" if classes else "no labels"
        parts.append(f"{printable(name)} with {len(whole.groups[name])} pictures and {what}")
    return "splits", f"{len(filled)} splits ({', '.join(parts)})"


def _like_splits(whole: Walk, filled: Sequence[str]) -> bool:
    """Whether sub-folders have names like splits, or two of them hold the same two folders."""
    if any(name.lower() in LIKE_SPLITS for name in filled):
        return True
    seen: set[str] = set()
    shared = 0
    for name in filled:
        depths = [p.split(os.sep) for p in whole.groups[name]]
        if any(len(parts) == 2 for parts in depths):
            return False
        inner = {parts[1] for parts in depths}
        shared += len(inner & seen) >= 2
        seen |= inner
    return shared > 0


def _refuse(
    root: Path, whole: Walk, filled: Sequence[str], readings: Sequence[tuple[str, str]]
) -> None:
    beside = whole.groups.get("", ())
    mixed = (
        f" holds {len(beside)} pictures (such as '{printable(beside[0])}') beside {len(filled)} "
        f"folders (such as '{printable(filled[0])}') and"
        if beside
        else ""
    )
    ways = {2: "two", 3: "three"}[len(readings)]
    raise UserError(
        f"Folder '{root}'{mixed} can be read in {ways} ways: "
        + ", or ".join(f"as {words}" for _, words in readings)
        + ". Type "
        + " or ".join(f"--config.data.layout={kind}" for kind, _ in readings)
        + "."
        + _labelled(whole, filled)
    )


def _labelled(whole: Walk, filled: Sequence[str]) -> str:
    """What to type where training pictures without labels lie beside labelled ones."""
    inner = {name for name in filled if any(p.count(os.sep) > 1 for p in whole.groups[name])}
    others = sorted(inner - set(KNOWN))
    if "train" not in filled or "train" in inner or not others:
        return ""
    return (
        f" To train without labels and probe with those of '{printable(others[0])}' type "
        f"--config.data.probe_split={printable(others[0])}."
    )
