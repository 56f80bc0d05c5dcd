"""Builds sources with boxes or masks, and their transforms, from `config.data`.

cutouts   the offline set; splits train, val, test
voc       PASCAL VOC; splits such as 2007/trainval+2012/trainval, from the official archives in
          data_dir, or (boxes only) as prepared by TFDS
folder    the user's own in data_dir, in the layout of VOC or COCO; splits are its lists
"""

from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.cutout_source import CutoutSource
from jssl.data.decode import Picture
from jssl.data.dense_coco import CocoFolder
from jssl.data.dense_folder import SBD_SPLITS, JoinedDense, VocFolder
from jssl.data.dense_transform import Transform
from jssl.data.voc_objects import VocBoxSource
from jssl.errors import UserError, nearest

DENSE_NAMES = ("cutouts", "voc", "folder")
YEARS = ("2007", "2012")
# name, kind -> the splits to train and to test on
SPLITS: dict[tuple[str, str], tuple[str, str]] = {
    ("cutouts", "boxes"): ("train", "test"),
    ("cutouts", "masks"): ("train", "test"),
    ("voc", "boxes"): ("2007/trainval+2012/trainval", "2007/test"),
    ("voc", "masks"): ("2012/train_aug", "2012/val"),
    ("folder", "boxes"): ("train", "val"),
    ("folder", "masks"): ("train", "val"),
}
SIDE = 128  # of a cut-out picture, by default
TFDS_SPLITS = {"trainval": "train+validation", "val": "validation"}


def make_dense_source(config: Any, split: str, kind: str) -> Any:
    """Returns the source of one split of the data set in `config.data`.

    Args:
        config: ConfigDict with the keys of `jssl.data.DEFAULTS`.
        split: 'train' or 'test'.
        kind: 'boxes' or 'masks'.

    Returns:
        A source with the examples of `jssl.data.DenseSource`.

    Raises:
        UserError: an unknown data set or split, or what is missing and where to fetch it.

    Example:
        >>> from ml_collections import ConfigDict
        >>> section = ConfigDict({'name': 'cutouts', 'data_dir': '', 'train_split': '',
        ...                       'test_split': '', 'image_size': 64, 'on_error': 'stop'})
        >>> len(make_dense_source(section, 'train', 'masks'))
        200
    """
    name = config.name
    if name not in DENSE_NAMES:
        raise UserError(
            f"Data set '{name}' has no {kind}: {nearest(name, DENSE_NAMES)}. Type "
            "--config.data.name=NAME."
        )
    chosen = split_of(config, split, kind)
    if name == "cutouts":
        return CutoutSource(chosen, size=config.image_size or SIDE, masks=kind == "masks")
    if name == "voc":
        parts = [_voc(config.data_dir, part.strip(), kind) for part in chosen.split("+")]
    else:
        if not config.data_dir:
            raise UserError(
                "Data set 'folder' needs a folder in the layout of VOC or COCO; data.data_dir is "
                "empty. Type --config.data.data_dir=FOLDER."
            )
        parts = [_folder(config.data_dir, part.strip(), kind) for part in chosen.split("+")]
    source = parts[0] if len(parts) == 1 else JoinedDense(parts)
    source.on_error = config.on_error
    return source


def split_of(config: Any, split: str, kind: str) -> str:
    """Returns the name of the split that a config reads, its own or the data set's usual one."""
    usual = SPLITS[config.name, kind][("train", "test").index(split)]
    return config[f"{split}_split"] or usual


def _voc(data_dir: str, split: str, kind: str) -> Any:
    year, _, part = split.partition("/")
    if year not in YEARS or not part:
        raise UserError(
            f"Split '{split}' of data set 'voc': expected YEAR/LIST of {', '.join(YEARS)}, such as "
            "2007/trainval, and + between several."
        )
    root = Path(data_dir or ".").expanduser()
    places = (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}")
    official = any((place / "JPEGImages").is_dir() for place in places)
    if kind == "boxes" and not official:
        try:
            return VocBoxSource(f"voc/{year}", TFDS_SPLITS.get(part, part), data_dir=data_dir)
        except UserError as error:
            raise UserError(
                f"{error} Or unpack the official archives, so that FOLDER/VOCdevkit/VOC{year}/"
                "JPEGImages exists, and give FOLDER as data_dir."
            ) from error
    if kind == "masks" and not data_dir:
        raise UserError(
            "Masks of data set 'voc' are in the official archives only, and data_dir is empty: "
            f"expected a FOLDER with VOCdevkit/VOC{year}/JPEGImages, and for train_aug also "
            "benchmark_RELEASE. See docs/dense_data.md."
        )
    if kind == "boxes":
        return VocFolder(root, part, year=int(year))
    sbd = str(root) if part in SBD_SPLITS else ""
    return VocFolder(root, part, year=int(year), boxes=False, masks=True, sbd=sbd)


def _folder(data_dir: str, split: str, kind: str) -> Any:
    root = Path(data_dir).expanduser()
    if (root / "annotations").is_dir() and kind == "boxes":
        return CocoFolder(root, split)
    return VocFolder(root, split, boxes=kind == "boxes", masks=kind == "masks")


class Decoded:
    """A transform of decoded examples for the pipeline, with the labels of its kind.

    Args:
        transform: of `jssl.data.dense_transform`, or of this file.
        kind: 'masks': the mask becomes the label, int16 [H,W].
    """

    def __init__(self, transform: Transform, kind: str):
        self._transform, self._kind = transform, kind

    def __call__(self, example: dict[str, Any], rng: Any = None) -> dict[str, Any]:
        if isinstance(example["image"], Picture):
            example = {**example, "image": example["image"].pixels()}
        # Transforms without randomness draw and ignore what they drew.
        result = dict(self._transform(example, np.random.default_rng(0) if rng is None else rng))
        if self._kind == "masks":
            result["label"] = result.pop("mask").astype(np.int16)
        return result
