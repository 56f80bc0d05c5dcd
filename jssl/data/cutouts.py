"""The offline set of detection and segmentation: cut-outs of photographs pasted on others.

    jssl.data.cutouts.write('cutouts')            # VOC's layout, in cutouts/VOC2007
    VocFolder('cutouts', 'train', masks=True)

A class is a photograph of `jssl.data.photos`; an object is a part of it with a soft outline, a
superellipse, on a part of another photograph, at .3 to .7 of the picture's side. The
mask is the object, with a border of one pixel that is ignored, and the box is that of the mask.
Objects do not overlap. Train parts come from other blocks of the photographs than val and test
parts, which share theirs. Of every split picture 0 has an object from the first column to the last
one, picture 1 a difficult object, and picture 2 no object.
"""

import functools
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from jssl import files
from jssl.data import photos
from jssl.data.decode import RESAMPLING
from jssl.data.palette import voc_palette
from jssl.errors import UserError
from jssl.metrics.detection import IGNORED

CLASSES = ("astronaut", "chelsea", "coffee", "flower", "retina", "rocket")
BACKGROUNDS = ("brick", "china", "coins", "grass", "gravel", "hubble", "ihc", "moon", "motorcycle")
IMAGES = {"train": 200, "val": 50, "test": 100}
SPLITS = tuple(IMAGES)
SCALES = (0.3, 0.7)
DIFFICULT = 0.1  # probability
RECIPE = "cutouts.json"
TILE = 96
MIN_SIZE = 48
MIN_IMAGES = {"train": 9, "val": 3, "test": 3}  # all classes in train, as picture 2 is empty
VERSION = 1


class Scene(NamedTuple):
    """A picture of the set.

    Attributes:
        image: uint8 [S,S,3].
        mask: uint8 [S,S]: 0 background, 1 to K, 255 border.
        boxes: int [n,4], (x1, y1, x2, y2) in pixels from 0.
        labels: int [n] in [0, K).
        difficult: bool [n].
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


def scene(split: str, index: int, *, size: int = 128, seed: int = 0) -> Scene:
    """Makes one picture; the same arguments give the same picture.

    Args:
        split: 'train', 'val' or 'test'.
        index: of the picture; 0, 1 and 2 are special, see the head of this file.
        size: side S in pixels.
        seed: of the set.

    Example:
        >>> scene('val', 0, size=64).boxes[0, [0, 2]].tolist()
        [0, 64]
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    image = _part(rng, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], split, size, size).copy()
    mask = np.zeros((size, size), np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    labels, difficult = [], []
    for number in range(0 if index == 2 else int(rng.integers(1, 4))):
        height, width = (int(round(size * s)) for s in rng.uniform(*SCALES, 2))
        if index == 0 and number == 0:
            width = size
        place = _place(rng, boxes, height, width, size)
        label, hard = int(rng.integers(len(CLASSES))), bool(rng.random() < DIFFICULT)
        if number == 0:
            label = index % len(CLASSES)  # so that no class is missing
        power = rng.choice([2.0, 4.0, 8.0])
        part = _part(rng, CLASSES[label], split, height, width)
        if place is None:
            continue
        _paste(image, mask, part, place, label, power)
        boxes.append((place[1], place[0], place[1] + width, place[0] + height))
        labels.append(label)
        difficult.append(hard or (index == 1 and number == 0))
    return Scene(image, mask, np.array(boxes, int).reshape(-1, 4), np.array(labels, int),
                 np.array(difficult, bool))  # fmt: skip


def write(
    folder: str | Path, *, images: Mapping[str, int] | None = None, size: int = 128, seed: int = 0
) -> Path:
    """Writes the set in VOC's layout, whole or not at all.

    Args:
        folder: to make; one with the same set stays as it is.
        images: number of pictures of 'train' (at least 9), 'val' and 'test' (at least 3); None
            means `IMAGES`.
        size: side in pixels, at least 48.
        seed: at least 0.

    Returns:
        The folder VOC2007, whose classes are `CLASSES`.

    Raises:
        UserError: another folder of this name, one that cannot be written, or a number out of
            range.
    """
    images = dict(IMAGES if images is None else images)
    few = set(images) != set(SPLITS) or any(images[s] < MIN_IMAGES[s] for s in SPLITS)
    if few or size < MIN_SIZE or seed < 0:
        raise UserError(
            f"Found images={images}, size={size}, seed={seed}: expected images of at least "
            f"{MIN_IMAGES}, a size of at least {MIN_SIZE}, and a seed of at least 0."
        )
    place = Path(folder).expanduser()
    recipe = {"version": VERSION, "images": {s: images[s] for s in SPLITS}, "size": size,
              "seed": seed}  # fmt: skip
    if place.exists() or place.is_symlink():
        if not _is_same(place, recipe):
            raise UserError(
                f"'{place}' exists and is no set of cut-outs with these numbers; it would not be "
                "overwritten. Give another folder, or move it away."
            )
        return place / "VOC2007"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".cutouts-", dir=place.parent))
        try:
            complete = temporary / "complete"  # mkdtemp's own folder is closed to other users
            _write_set(complete / "VOC2007", images, size, seed)
            files.write_json(complete / RECIPE, recipe)
            files.move(complete, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"'{place}' cannot be written ({error.strerror}): expected a disk with room."
        ) from error
    return place / "VOC2007"


def _is_same(place: Path, recipe: dict) -> bool:
    try:
        return json.loads((place / RECIPE).read_text()) == recipe
    except (OSError, ValueError):
        return False


def _write_set(root: Path, images: Mapping[str, int], size: int, seed: int) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main",
                 "ImageSets/Segmentation"):  # fmt: skip
        (root / name).mkdir(parents=True)
    for split in SPLITS:
        names = [f"{split}_{index:06d}" for index in range(images[split])]
        for index, name in enumerate(names):
            made = scene(split, index, size=size, seed=seed)
            buffer = io.BytesIO()
            Image.fromarray(made.image).save(buffer, "JPEG", quality=95, subsampling=0)
            files.write_bytes(root / "JPEGImages" / f"{name}.jpg", buffer.getvalue())
            picture = Image.fromarray(made.mask)
            picture.putpalette(
                voc_palette().tobytes()
            )  # of a grey picture: its levels become indices
            files.write_picture(root / "SegmentationClass" / f"{name}.png", picture)
            files.write_bytes(root / "Annotations" / f"{name}.xml", _xml(name, made))
        for kind in ("Main", "Segmentation"):
            files.write_text(root / "ImageSets" / kind / f"{split}.txt", "\n".join(names) + "\n")


def _xml(name: str, made: Scene) -> bytes:
    """An annotation of VOC: pixels are counted from 1, and the last one belongs to the box."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "VOC2007"
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(root, "size")
    for key, value in zip(("width", "height", "depth"), (*made.mask.shape[::-1], 3), strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "1"
    for box, label, difficult in zip(made.boxes, made.labels, made.difficult, strict=True):
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = CLASSES[label]
        ElementTree.SubElement(element, "difficult").text = str(int(difficult))
        corners = ElementTree.SubElement(element, "bndbox")
        numbers = zip(("xmin", "ymin", "xmax", "ymax"), box + (1, 1, 0, 0), strict=True)
        for key, value in numbers:
            ElementTree.SubElement(corners, key).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root) + b"\n"


@functools.cache
def _photo(label: int) -> np.ndarray:
    return photos.read(label)


def _part(rng: np.random.Generator, name: str, split: str, height: int, width: int) -> np.ndarray:
    """A part of a photograph, from the blocks of the split, resized: uint8 [h,w,3]."""
    photo = _photo(photos.CLASS_NAMES.index(name))
    blocks = "train" if split == "train" else "test"
    corners = photos.tile_corners(photo.shape[0], photo.shape[1], blocks, TILE)
    tiles = (photo[y : y + TILE, x : x + TILE] for y, x in rng.permutation(corners))
    tile = next(tile for tile in tiles if photos.shows_something(tile))
    picture = Image.fromarray(np.ascontiguousarray(tile))
    return np.asarray(picture.resize((width, height), RESAMPLING["bicubic"]))


def _place(
    rng: np.random.Generator, boxes: list[tuple], height: int, width: int, size: int
) -> tuple[int, int] | None:
    """A free place (top, left) with a gap of two pixels to the other boxes; None if none of 20."""
    for top, left in rng.integers(0, (size - height + 1, size - width + 1), (20, 2)):
        if all(
            left >= x2 + 2 or left + width + 2 <= x1 or top >= y2 + 2 or top + height + 2 <= y1
            for x1, y1, x2, y2 in boxes
        ):
            return int(top), int(left)
    return None


def _paste(
    image: np.ndarray,
    mask: np.ndarray,
    part: np.ndarray,
    place: tuple[int, int],
    label: int,
    power: float,
) -> None:
    """Pastes a part within |x|^p + |y|^p <= 1, which touches all sides of its box."""
    height, width = part.shape[:2]
    y, x = (np.abs(np.linspace(-1, 1, side)) ** power for side in (height, width))
    # The middle of an even side lies between two pixels: the least of a side is taken for 0.
    radius = (y - y.min())[:, None] / (1 - y.min()) + (x - x.min())[None] / (1 - x.min())
    region = radius <= 1
    alpha = np.clip((1 - radius) * 8 + 0.5, 0, 1)[..., None] * region[..., None]
    where = np.s_[place[0] : place[0] + height, place[1] : place[1] + width]
    image[where] = np.round(alpha * part + (1 - alpha) * image[where]).astype(np.uint8)
    mask[where][region] = label + 1
    inner = np.pad(mask == label + 1, 1)
    near = inner[:-2, 1:-1] | inner[2:, 1:-1] | inner[1:-1, :-2] | inner[1:-1, 2:]
    mask[near & (mask == 0)] = IGNORED
