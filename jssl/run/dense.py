"""Sources and transforms of a run that learns from boxes or masks."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jssl import data, methods
from jssl.data.dense_transform import DetectionTransform, SegmentationTransform, WholePicture
from jssl.dense.anchors import cell_anchors, grid_anchors
from jssl.errors import UserError
from jssl.methods._dense import ANCHORS

UNREAD = {"data.held_out": 0, "monitor.every_epochs": 0}


def sources(config: ConfigDict) -> tuple[Any, Any, Any, None]:
    """Returns the examples to train on (twice) and to test on, and that none are held out.

    Raises:
        UserError: a setting that such a run does not read, or what is missing.
    """
    kind = methods.get(config.method).data.dense
    for key, value in UNREAD.items():
        section, name = key.split(".")
        if config[section][name] != value:
            raise UserError(
                f"Method '{config.method}' has neither held-out examples nor a monitor while it "
                f"trains, found {key}={config[section][name]}. Type --config.{key}={value}."
            )
    train, test = (
        _with_proposals(config, data.make_dense_source(config.data, split, kind), split)
        for split in ("train", "test")
    )
    transform_of(config, train=False), transform_of(config, train=True)  # refuse wrong sizes
    return train, train, test, None


def _with_proposals(config: ConfigDict, source: Any, split: str) -> Any:
    """Adds the proposals of files, of a method that reads them."""
    section = config[config.method]
    place = section.get("proposals", ANCHORS)
    if place == ANCHORS:
        return source
    key = f"--config.{config.method}.proposals"
    if not place:
        raise UserError(
            f"Method '{config.method}' needs proposals, found {config.method}.proposals=''. Type "
            f"{key}=FOLDER, with files of boxes such as those of selective search (see "
            f"docs/dense_data.md), or {key}=anchors for all anchor boxes."
        )
    parts = data.split_of(config.data, split, "boxes").split("+")
    named = "+".join(f"{config.data.name}/{part.strip()}" for part in parts)
    return data.with_proposals(source, place, named, most=section.max_proposals)


def train_transform(config: ConfigDict, source: Any) -> Any:
    """Returns the transform of training examples."""
    return transform_of(config, train=True, difficult=source.train_difficult)


def test_transform(config: ConfigDict) -> Any:
    """Returns the transform of test examples, without randomness."""
    return transform_of(config, train=False)


def transform_of(config: ConfigDict, *, train: bool, difficult: bool = True) -> Any:
    """Returns a transform of the method's kind, from `augment.size` and the method's section."""
    kind, side = methods.get(config.method).data.dense, config.augment.size
    section = config[config.method]
    if kind == "masks" and "scales" not in section:  # whole pictures, no augmentation
        return data.Decoded(WholePicture(side, key="augment.size"), kind)
    if kind == "masks":
        crop = SegmentationTransform(side, scales=tuple(section.scales))
        return data.Decoded(crop if train else WholePicture(section.test_size or side), kind)
    fields = methods.get(config.method).data.dense_fields(config)
    most = fields["proposals"][0][0] if "proposals" in fields else 0
    options = {"longest": side, "canvas": (side, side), "most_proposals": most}
    if train:
        difficult = difficult and section.get("difficult", True)
        transform: Any = DetectionTransform(tuple(section.sides), difficult=difficult, **options)
    else:
        transform = DetectionTransform.test(section.test_side, **options)
    if section.get("proposals") == ANCHORS:
        grid = _anchor_grid(section, side)
        transform = data.AnchorBoxes(transform, grid, stride=section.anchor_stride, most=most)
    return data.Decoded(transform, kind)


def _anchor_grid(section: ConfigDict, side: int) -> np.ndarray:
    """Returns the anchors of each cell of a canvas, float32 [rows,columns,A,4]."""
    cells = -(-side // section.anchor_stride)
    cell = cell_anchors(tuple(section.anchor_sizes), tuple(section.anchor_ratios))
    grid = np.asarray(grid_anchors(cells, cells, section.anchor_stride, cell))
    return grid.reshape(cells, cells, len(cell), 4)


def proposals_text(config: ConfigDict) -> str:
    """Returns what the proposals of a method are, for the protocol of its numbers; '' if none."""
    section = config[config.method]
    place = section.get("proposals", "")
    if place == ANCHORS:
        sizes = ", ".join(f"{size:g}" for size in section.anchor_sizes)
        return (
            f"all anchor boxes of {sizes} px every {section.anchor_stride} px, not selective search"
        )
    return f"proposals of {Path(place).name}" if place else ""
