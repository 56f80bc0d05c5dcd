"""Reads FGVC-Aircraft and Birdsnap: pictures named by official lists.

    DATA_DIR/fgvc_aircraft/data/  images/*.jpg  variants.txt  images_variant_{train,val,test}.txt
    DATA_DIR/birdsnap/            species.txt  images.txt  test_images.txt  download/images/*/*.jpg

`python -m jssl.data.prepare NAME --archive=FILE` makes the folder of the official archive, see
`jssl.data.archives`. Birdsnap's archive holds addresses of pictures; those that its script can no
longer fetch are left out, and `missing` counts them.
"""

import csv
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import MIN_SIDE, Picture, PictureError
from jssl.data.text import read_text
from jssl.data.tfds_source import default_data_dir, prepare_command
from jssl.errors import UserError, nearest

BANNER = 20  # rows with the owner's name at the bottom of every picture of FGVC-Aircraft
SPLITS = {
    "fgvc_aircraft": ("train", "val", "trainval", "test"),
    "birdsnap": ("train", "test"),
}
LISTS = {
    "fgvc_aircraft": ("data/variants.txt", "data/images_variant_train.txt"),
    "birdsnap": ("species.txt", "images.txt", "test_images.txt"),
}
_PATTERNS = {"fgvc_aircraft": "data/images_variant_*.txt", "birdsnap": "*images.txt"}
LARGEST = {"fgvc_aircraft": "trainval", "birdsnap": "train"}  # to train on by default

Rows = list[tuple[str, str]]  # (path of a picture, name of its class)


class Trimmed(Picture):
    """A picture without its lowest `BANNER` rows."""

    __slots__ = ()

    def size(self) -> tuple[int, int]:
        """Returns the height without the banner, and the width."""
        height, width = super().size()
        if height < BANNER + MIN_SIDE:
            raise PictureError(
                f"Picture '{self.name}' is {height} pixels high; expected more than the "
                f"{BANNER} of its banner."
            )
        return height - BANNER, width

    def _decode(self, min_height: int, min_width: int) -> np.ndarray:
        pixels, height = super()._decode(min_height, min_width), super().size()[0]
        return pixels[: len(pixels) * (height - BANNER) // height]


class ListedSource:
    """One split of a data set with lists of its pictures.

    Args:
        name: a key of `SPLITS`.
        split: one of its splits.
        data_dir: where it was prepared; '' means `default_data_dir()`.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        **reading: the keys of `Picture.read`.

    Attributes:
        labels: int32 [M].
        missing: number of listed pictures of the split that the folder lacks.

    Raises:
        UserError: not prepared (names the command), unknown split, missing pictures of
            FGVC-Aircraft, or inconsistent lists.
    """

    def __init__(
        self, name: str, split: str, *, data_dir: str = "", on_error: str = "stop", **reading: Any
    ):
        if split not in SPLITS[name]:
            raise UserError(
                f"Data set '{name}' has no split '{split}': {nearest(split, SPLITS[name])}."
            )
        data_dir = data_dir or default_data_dir()
        self._folder = Path(data_dir).expanduser() / name
        if not is_prepared(name, data_dir):
            raise UserError(
                f"Data set '{name}' is not prepared in '{data_dir}'; expected '{self._folder}'. "
                f"Type {prepare_command(name, data_dir)} --archive=FILE"
            )
        read = {"fgvc_aircraft": _aircraft, "birdsnap": _birdsnap}[name]
        rows, self.class_names = read(self._folder, split)
        lists = (path for path in self._folder.glob(_PATTERNS[name]) if path.is_file())
        self._latin = sorted(path.name for path in lists if read_text(path)[1] == "latin-1")
        rows = [(_on_disk(self._folder, path), class_name) for path, class_name in rows]
        present = [row for row in rows if (self._folder / row[0]).is_file()]
        self.missing = len(rows) - len(present)
        if self.missing and (name != "birdsnap" or not present):
            first_missing = next(path for path, _ in rows if not (self._folder / path).is_file())
            raise UserError(
                f"Data set '{name}' lacks {self.missing} of the {len(rows)} pictures of its split "
                f"'{split}', the first is '{self._folder / first_missing}'. Prepare it again: "
                f"{prepare_command(name, data_dir)} --archive=FILE"
            )
        numbers = {class_name: i for i, class_name in enumerate(self.class_names)}
        for path, class_name in present:
            if class_name not in numbers:
                raise UserError(
                    f"The list of split '{split}' in '{self._folder}' gives '{path}' the class "
                    f"'{class_name}': {nearest(class_name, numbers)}."
                )
        self.name, self.on_error, self.image_shape = name, on_error, None
        self.num_classes = len(self.class_names)
        self.labels = np.array([numbers[class_name] for _, class_name in present], np.int32)
        self._paths = [path for path, _ in present]
        self._split, self._reading = split, reading
        self._kind = Trimmed if name == "fgvc_aircraft" else Picture

    def __len__(self) -> int:
        return len(self._paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        path = self._folder / self._paths[index]
        return {
            "image": self._kind.read(path, **self._reading),
            "label": self.labels[index],
            "index": np.int32(index),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def description(self) -> str:
        """Returns one line on what was read and what is missing."""
        lists = f"lists in Latin-1: {', '.join(self._latin)}" if self._latin else "lists in UTF-8"
        return (
            f"{self.name} {self._split}: {len(self):,} pictures of {self.num_classes} classes, "
            f"{self.missing:,} that the lists name are not here; {lists}"
        )

    def fingerprint(self) -> str:
        """Returns a hash of the names, order and labels of the pictures."""
        parts = [self.name, self._split, *self._paths, self.labels.tobytes().hex()]
        return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()[:16]


def is_prepared(name: str, data_dir: str) -> bool:
    """Whether the lists of a data set exist in its folder."""
    folder = Path(data_dir or default_data_dir()).expanduser() / name
    return all((folder / file).is_file() for file in LISTS[name])


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"The list '{path}' is missing: expected it from the official archive.")
    return [line for line in read_text(path)[0].splitlines() if line.strip()]


def _on_disk(folder: Path, path: str) -> str:
    """Returns the path as on disk, where names from an old archive may be Latin-1 bytes."""
    if path.isascii() or (folder / path).is_file():
        return path
    try:
        latin_path = os.fsdecode(path.encode("latin-1"))
    except UnicodeEncodeError:
        return path
    return latin_path if (folder / latin_path).is_file() else path


def _aircraft(folder: Path, split: str) -> tuple[Rows, tuple[str, ...]]:
    data = folder / "data"
    rows = []
    for part in ("train", "val") if split == "trainval" else (split,):
        for line in _lines(data / f"images_variant_{part}.txt"):
            picture, _, variant = line.strip().partition(" ")  # variants have spaces: DC-3, An-12
            rows.append((f"data/images/{picture}.jpg", variant))
    return rows, tuple(line.strip() for line in _lines(data / "variants.txt"))


def _birdsnap(folder: Path, split: str) -> tuple[Rows, tuple[str, ...]]:
    def table(name: str) -> list[dict[str, str]]:
        # Bird names contain apostrophes and quotes: the file has no quoting.
        rows = csv.DictReader(_lines(folder / name), delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [key for key in columns[name] if key not in (rows.fieldnames or ())]
        if missing:
            raise UserError(
                f"The list '{folder / name}' lacks the column {missing[0]}: found "
                f"{', '.join(rows.fieldnames or ['nothing'])}. Unpack the official archive again."
            )
        entries = list(rows)
        for number, row in enumerate(entries, 2):
            if any(row[key] is None for key in columns[name]):
                raise UserError(
                    f"The list '{folder / name}' ends in the middle of line {number}. Unpack the "
                    "official archive again."
                )
        return entries

    columns = {
        "species.txt": ("id", "common"),
        "images.txt": ("path", "species_id"),
        "test_images.txt": ("path",),
    }
    species = {row["id"]: row["common"] for row in table("species.txt")}
    test = {row["path"] for row in table("test_images.txt")}
    rows = [
        (f"download/images/{row['path']}", species.get(row["species_id"], row["species_id"]))
        for row in table("images.txt")
        if (row["path"] in test) == (split == "test")
    ]
    return rows, tuple(species.values())
