"""Reads boxes and masks of an own folder in the layout of PASCAL VOC.

VOC2007/JPEGImages/1.jpg
VOC2007/Annotations/1.xml                   boxes
VOC2007/SegmentationClass/1.png             masks, by the indices of their palette
VOC2007/ImageSets/Main/train.txt            names of the pictures with boxes
VOC2007/ImageSets/Segmentation/train.txt    names of the pictures with masks
"""

import abc
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.decode import Picture
from jssl.data.dense_files import (
    Annotation,
    check_inside,
    inside,
    read_mask,
    read_sbd_mask,
    read_voc_xml,
)
from jssl.data.text import read_text
from jssl.data.voc import CLASSES
from jssl.errors import UserError, nearest

MAX_NAMES = 2_000_000  # of a list
SBD_SPLITS = ("train_aug", "sbd_train", "sbd_val")
ARCHIVES = {
    2007: "VOCtrainval_06-Nov-2007.tar (splits train, val, trainval) and VOCtest_06-Nov-2007.tar "
    "(split test)",
    2012: "VOCtrainval_11-May-2012.tar",
}
NO_OBJECTS = Annotation(np.zeros((0, 4), np.float32), (), np.zeros(0, bool))


class DenseSource(abc.ABC):
    """Pictures with the boxes of their objects, and perhaps masks.

    Attributes:
        name: of the data set.
        class_names: K.
        num_classes: K; in masks 0 is the background and class c is c + 1.
        names: of the pictures, as in the list of the split.
        train_difficult: whether training counts difficult objects: MoCo's does on VOC; COCO's
            crowds, which are difficult here, are no single objects.
    """

    image_shape = None  # pictures differ in size
    on_error = "stop"
    train_difficult = True

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        names: Sequence[str],
        annotations: Sequence[Annotation],
    ):
        self.name, self.names = name, tuple(names)
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self._annotations = annotations
        self._numbers = {class_name: i for i, class_name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self.names)

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """Returns boxes, label and difficult of a picture, without reading the picture."""
        boxes, names, difficult = self._annotations[index]
        label = np.array([self._numbers[name] for name in names], np.int32)
        return {"boxes": boxes, "label": label, "difficult": difficult}

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        picture = Picture.read(self._path(index))
        size = picture.size()
        check_inside(self._described(index), self._annotations[index].boxes, *size)
        example = {"image": picture, **self.objects(index), "index": np.int32(index)}
        mask = self._mask(index, size)
        return example if mask is None else {**example, "mask": mask}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an example.

        Returns:
            image: uint8 [H,W,3].
            boxes: float32 [n,4], (x1, y1, x2, y2) in pixels from 0.
            label: int32 [n] in [0, K).
            difficult: bool [n].
            index: int32 [].
            mask: uint8 [H,W], where masks were asked for: 0 background, 1 to K, 255 ignored.
        """
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of names, classes and objects, not of the content of the pictures."""
        digest = hashlib.sha256("\0".join((*self.class_names, "", *self.names)).encode())
        for i in range(len(self)):
            for key, array in self.objects(i).items():
                digest.update(f"{key} {len(array)}".encode() + array.tobytes())
        return digest.hexdigest()[:16]

    @abc.abstractmethod
    def _path(self, index: int) -> Path:
        """Returns the file of a picture."""

    @abc.abstractmethod
    def _described(self, index: int) -> str:
        """Returns the file of the boxes, for messages."""

    def _mask(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        return None


class VocFolder(DenseSource):
    """A split of a folder in the layout of PASCAL VOC.

    Args:
        root: VOC2007 or VOC2012, or a folder that holds it or VOCdevkit.
        split: name of a list in ImageSets; with `sbd` also 'train_aug' ((SBD + VOC's train) -
            VOC's val, with VOC's own masks where there are two), 'sbd_train' or 'sbd_val'.
        year: 2007 or 2012, where `root` holds it.
        boxes: False leaves the boxes out.
        masks: True reads the masks of SegmentationClass, and the list of ImageSets/Segmentation.
        sbd: folder 'benchmark_RELEASE' of SBD's archive benchmark.tgz; needs `masks`.
        classes: names in the order of the numbers; () means VOC's twenty where the folder is
            called VOC2007 or VOC2012 and has no other class, else those of all files in
            Annotations, sorted.

    Raises:
        UserError: a missing part (names the archive to fetch), an unknown split or class, or a
            file that is refused; see `jssl.data.dense_files`.

    Example:
        source = VocFolder('/data/VOCdevkit', 'trainval', year=2007)
        source[0]['boxes'].shape        # (n, 4)
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        year: int = 2007,
        boxes: bool = True,
        masks: bool = False,
        sbd: str | Path = "",
        classes: Sequence[str] = (),
    ):
        self.root, self._year, self._masks = _voc_root(Path(root).expanduser(), year), year, masks
        self._sbd = _sbd_root(Path(sbd).expanduser()) if sbd else None
        if (split in SBD_SPLITS) and not (sbd and masks):
            raise UserError(f"Split '{split}' has masks of SBD: expected sbd=FOLDER, masks=True.")
        if split in SBD_SPLITS:
            names, self._own = self._sbd_names(split)
        else:
            names = self._listed(split)
            self._own = frozenset(names)
        for name in names:
            path = inside(self.root, "JPEGImages", f"{name}.jpg")
            if not path.is_file():
                raise UserError(f"Picture '{path}' of split '{split}' is missing. {self._fetch()}")
            if masks and not self._mask_path(name).is_file():
                fetch = self._fetch() if name in self._own else "Unpack benchmark.tgz again."
                raise UserError(f"Mask '{self._mask_path(name)}' is missing. {fetch}")
        annotations = self._all_annotations() if boxes or not classes else {}
        class_names = tuple(classes) or self._class_names(annotations)
        for name in names if boxes else ():
            if name not in annotations:
                path = self.root / "Annotations" / f"{name}.xml"
                raise UserError(f"The boxes '{path}' are missing. {self._fetch()}")
            for class_name in annotations[name].names:
                if class_name not in class_names:
                    raise UserError(
                        f"'{self.root / 'Annotations' / name}.xml' has the class '{class_name}': "
                        f"{nearest(class_name, class_names)}."
                    )
        own = [annotations[name] if boxes else NO_OBJECTS for name in names]
        super().__init__(f"voc:{self.root.name}", class_names, names, own)

    def _path(self, index: int) -> Path:
        return inside(self.root, "JPEGImages", f"{self.names[index]}.jpg")

    def _described(self, index: int) -> str:
        return str(self.root / "Annotations" / f"{self.names[index]}.xml")

    def _mask(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        if not self._masks:
            return None
        path = self._mask_path(self.names[index])
        read = read_sbd_mask if path.suffix == ".mat" else read_mask
        return read(path, num_classes=self.num_classes, size=size)

    def _mask_path(self, name: str) -> Path:
        if name in self._own or self._sbd is None:
            return inside(self.root, "SegmentationClass", f"{name}.png")
        return inside(self._sbd, "cls", f"{name}.mat")

    def _fetch(self) -> str:
        return (
            f"Unpack {_archive(self._year)}, so that '{self.root}' holds JPEGImages, "
            "Annotations, ImageSets and SegmentationClass."
        )

    def _listed(self, split: str) -> list[str]:
        folder = inside(self.root, "ImageSets", "Segmentation" if self._masks else "Main")
        path = inside(folder, f"{split}.txt")
        if not path.is_file():
            # VOC's lists of a single class are called CLASS_SPLIT.txt.
            known = [p.stem for p in folder.glob("*.txt") if "_" not in p.stem]
            choices = nearest(split, known) if known else "there is none."
            raise UserError(f"No list '{path}': {choices} {self._fetch()}")
        return _names(path)

    def _sbd_names(self, split: str) -> tuple[list[str], frozenset[str]]:
        """Returns the names of a split of SBD, and those whose mask is VOC's own."""
        assert self._sbd is not None
        parts = {part: _names(inside(self._sbd, f"{part}.txt")) for part in ("train", "val")}
        if split != "train_aug":
            return parts[split.removeprefix("sbd_")], frozenset()
        own = self._listed("train")
        every = {*parts["train"], *parts["val"], *own} - set(self._listed("val"))
        return sorted(every), frozenset(own)

    def _all_annotations(self) -> dict[str, Annotation]:
        """Reads all files of Annotations: the classes are those of all splits."""
        folder = self.root / "Annotations"
        if not folder.is_dir():
            raise UserError(f"Folder '{folder}' is missing. {self._fetch()}")
        files = sorted(name for name in os.listdir(folder) if name.endswith(".xml"))
        return {
            name.removesuffix(".xml"): read_voc_xml(inside(self.root, "Annotations", name))
            for name in files
        }

    def _class_names(self, annotations: dict[str, Annotation]) -> tuple[str, ...]:
        names = {name for one in annotations.values() for name in one.names}
        official = self.root.name in ("VOC2007", "VOC2012") and names <= set(CLASSES)
        return CLASSES if official else tuple(sorted(names))


class JoinedDense:
    """Several sources with the same classes after each other, such as trainval of 2007 and 2012.

    Args:
        parts: `VocFolder`, `CocoFolder` or `VocBoxSource`, one or more.

    Raises:
        UserError: other classes.
    """

    image_shape = None
    on_error = "stop"

    def __init__(self, parts: Sequence[Any]):
        first = parts[0]
        for part in parts[1:]:
            if part.class_names != first.class_names:
                raise UserError(
                    f"'{part.name}' has other classes than '{first.name}': expected the same."
                )
        self._parts, self._ends = tuple(parts), np.cumsum([len(part) for part in parts])
        self.name = "+".join(part.name for part in parts)
        self.class_names, self.num_classes = first.class_names, first.num_classes
        self.train_difficult = all(part.train_difficult for part in parts)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the pictures; None if a part has none."""
        if not all(hasattr(part, "names") for part in self._parts):
            return None
        return tuple(name for part in self._parts for name in part.names)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[Any, int]:
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[number], index - int(self._ends[number]) + len(self._parts[number])

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """Returns boxes, label and difficult of a picture."""
        part, row = self._place(index)
        return part.objects(row)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        part, row = self._place(index)
        return {**part.encoded(row), "index": np.int32(range(len(self))[index])}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an example as those of `DenseSource`."""
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of those of the parts."""
        parts = " ".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _voc_root(root: Path, year: int) -> Path:
    places = [root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"]
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    raise UserError(
        f"No folder '{root / 'JPEGImages'}', nor one in VOC{year} or VOCdevkit/VOC{year} below "
        f"'{root}'. Unpack {_archive(year)} into '{root}'."
    )


def _archive(year: int) -> str:
    return ARCHIVES.get(year, f"the archive of {year}")


def _sbd_root(sbd: Path) -> Path:
    for place in (sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset"):
        if (place / "cls").is_dir():
            return place
    raise UserError(
        f"No folder 'cls' of SBD in '{sbd}', '{sbd}/dataset' or '{sbd}/benchmark_RELEASE/dataset'. "
        f"Unpack benchmark.tgz into '{sbd}'."
    )


def _names(path: Path) -> list[str]:
    """Reads a list of names; a second column (1, 0, -1 of VOC's lists of a class) is refused."""
    if not path.is_file():
        raise UserError(f"The list '{path}' is missing. Unpack benchmark.tgz again.")
    names = [line.strip() for line in read_text(path)[0].splitlines() if line.strip()]
    if not names or len(names) > MAX_NAMES or len(set(names)) < len(names):
        raise UserError(
            f"The list '{path}' has {len(names)} names, {len(set(names))} different ones: expected "
            f"1 to {MAX_NAMES:,}, each once."
        )
    for name in names:
        if any(character.isspace() for character in name):
            raise UserError(f"The list '{path}' has the line {name!r}: expected one name a line.")
    return names
