"""A folder of pictures: one sub-folder a class, or one flat folder without labels.

    pictures/cat/1.jpg  pictures/dog/2.png       classes cat, dog
    pictures/train/cat/1.jpg  pictures/val/...   the same, with splits
    pictures/1.jpg  pictures/2.jpg               no labels: label -1, num_classes 0
    pictures/train/1.jpg  pictures/val/2.jpg     no labels, with splits

Classes are numbered in the order of their names, those of the training split for every split. Class
folders are searched to any depth. Files whose names begin with a dot, and files that are not
pictures by their ending, are passed over.
"""

import collections
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import Picture, PictureError
from jssl.errors import UserError, nearest

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Names of the sub-folder that holds a split, the first one found.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test", "validation")}


class FolderSource:
    """Pictures of one split of a folder; see the layouts of this file.

    Args:
        root: the folder, `config.data.data_dir`.
        split: 'train' or 'test'.
        subfolder: name of the split's sub-folder; '' looks for train, and for val, test or
            validation, and takes `root` itself as training data when it has none of them.
        training: the training split's sub-folder, whose classes number those of every split.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.

    Raises:
        UserError: no such folder, no pictures, one class only, pictures beside class folders, no
            sub-folder for the split, or a class that the training split lacks.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        subfolder: str = "",
        training: str = "",
        on_error: str = "stop",
    ):
        self.name = f"folder:{Path(root).name}"
        self.on_error = on_error
        self.image_shape = None  # pictures differ in size
        self._base = _split_folder(Path(root).expanduser(), split, subfolder)
        self.class_names = _classes(self._base)
        if split != "train" and self.class_names:
            self.class_names = self._classes_of_training(
                Path(root).expanduser() / (training or "train")
            )
        self.num_classes = len(self.class_names)
        # Paths relative to the base, sorted: the same order on every machine.
        self._paths, self._labels = _list(self._base, self.class_names)

    def _classes_of_training(self, training: Path) -> tuple[str, ...]:
        names = _classes(training) if training.is_dir() else self.class_names
        for name in self.class_names:
            if name not in names:
                raise UserError(
                    f"Folder '{self._base}' has the class '{name}', which the training folder "
                    f"'{training}' lacks: {nearest(name, names)}."
                )
        return names

    def __len__(self) -> int:
        return len(self._paths)

    def encoded(self, index: int) -> dict[str, Any]:
        """Like `source[index]`, but the image is a `Picture` that is not decoded yet."""
        path = self._base / self._paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PictureError(f"Picture '{path}' cannot be read: {error.strerror}.") from error
        return {
            "image": Picture(data, str(path)),
            "label": self._labels[index],
            "index": np.int32(index),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Changes with the names and the order of the files; their content is not read."""
        return hashlib.sha256("\n".join(self._paths).encode()).hexdigest()[:16]


def has_split(root: str, split: str, subfolder: str = "") -> bool:
    """Whether a folder of pictures has a split; every folder has 'train'."""
    base = Path(root).expanduser()
    names = (subfolder,) if subfolder else SPLIT_FOLDERS[split]
    return split == "train" or any((base / name).is_dir() for name in names)


def _split_folder(root: Path, split: str, subfolder: str) -> Path:
    if not root.is_dir():
        raise UserError(
            f"Folder '{root}' does not exist; expected a folder of pictures. "
            "Type --config.data.data_dir=FOLDER."
        )
    names = (subfolder,) if subfolder else SPLIT_FOLDERS[split]
    for name in names:
        if (root / name).is_dir():
            return root / name
    other = [name for name in SPLIT_FOLDERS["test"] if (root / name).is_dir()]
    if split == "train" and not subfolder and not other:
        return root
    found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())[:10]) or "none"
    raise UserError(
        f"Folder '{root}' has no sub-folder {' or '.join(names)} for the {split} split; found "
        f"sub-folders: {found}. Make one, or type --config.data.{split}_split=SUBFOLDER."
    )


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _classes(base: Path) -> tuple[str, ...]:
    """Names of the class folders, () for a flat folder; refuses what is neither."""
    entries = _visible(base)
    folders = tuple(e.name for e in entries if e.is_dir())
    pictures = [e.name for e in entries if e.is_file() and e.name.lower().endswith(ENDINGS)]
    if folders and pictures:
        raise UserError(
            f"Folder '{base}' holds {len(pictures)} pictures (such as '{pictures[0]}') beside "
            f"{len(folders)} folders (such as '{folders[0]}'); expected either one sub-folder a "
            "class and no pictures beside them, or pictures only (no labels). Move one of the two."
        )
    return folders


def _list(base: Path, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    paths: list[str] = []
    labels: list[int] = []
    others: collections.Counter = collections.Counter()
    for label, name in enumerate(classes or ("",)):
        for folder, folders, files in os.walk(base / name, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith(".")) if classes else []
            for file in sorted(f for f in files if not f.startswith(".")):
                if file.lower().endswith(ENDINGS):
                    paths.append(os.path.relpath(os.path.join(folder, file), base))
                    labels.append(label if classes else -1)
                else:
                    others[Path(file).suffix or file] += 1
    if not paths:
        found = ", ".join(f"{n} x '{ending}'" for ending, n in others.most_common(5)) or "no files"
        raise UserError(
            f"Folder '{base}' holds no pictures: found {found}; expected files that end in "
            f"{' '.join(ENDINGS)}. Type --config.data.data_dir=FOLDER."
        )
    populated = sorted(set(labels))
    if classes and len(populated) < 2:
        name = classes[populated[0]]
        raise UserError(
            f"Folder '{base}' holds one class: found {len(paths)} pictures, all in '{name}'; "
            "expected two sub-folders or more, one a class. For pictures without labels name the "
            f"flat folder that holds them. Type --config.data.data_dir={base / name}"
        )
    return paths, np.asarray(labels, np.int32)
