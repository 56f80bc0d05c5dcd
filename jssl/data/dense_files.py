"""Reads the untrusted files of detection and segmentation sets: XML, JSON, masks.

Every file has a largest size, no code of a file runs, XML with a document type or an entity is
refused, and no name leads out of the folder.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from jssl.data.decode import MAX_PIXELS, PictureError
from jssl.data.modes import open_image
from jssl.data.plain_mat import read_field
from jssl.data.whole import check_whole
from jssl.errors import UserError
from jssl.metrics.detection import IGNORED
from jssl.regular import FileError, read_file

MAX_OBJECTS = 64  # of a picture: the boxes of a batch are padded to this number
MAX_XML = 2**20  # bytes; VOC's largest has 13 kB
MAX_JSON = 2**29  # bytes; instances_train2017.json has 449 MB
MAX_MASK = 64 * 2**20  # bytes, compressed and unpacked


class Annotation(NamedTuple):
    """The objects of a picture.

    Attributes:
        boxes: float32 [n,4], (x1, y1, x2, y2) in pixels from 0.
        names: of the classes, n.
        difficult: bool [n].
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    difficult: np.ndarray


def inside(root: Path, *names: str) -> Path:
    """Returns the path of a file below a folder.

    Args:
        root: the folder.
        *names: of folders and the file, from an untrusted list; '/' separates folders.

    Raises:
        UserError: the path is not in the folder, by its name or by a link.

    Example:
        >>> inside(Path('set'), 'JPEGImages', '1.jpg').as_posix()
        'set/JPEGImages/1.jpg'
        >>> inside(Path('set'), '../1.jpg')
        Traceback (most recent call last):
        ...
        jssl.errors.UserError: '../1.jpg' is no file inside 'set': expected a name without '..'.
    """
    for name in names:
        if name.startswith(("/", "~")) or "\0" in name or "\\" in name or not name:
            raise UserError(f"{name!r} is no file inside '{root}': expected a plain relative name.")
        if ".." in name.split("/"):
            raise UserError(f"{name!r} is no file inside '{root}': expected a name without '..'.")
    path = root.joinpath(*names)
    base = os.path.realpath(root)
    if not os.path.realpath(path).startswith(base.rstrip(os.sep) + os.sep):
        raise UserError(
            f"'{path}' is a link out of '{root}': expected a file inside. Copy it there."
        )
    return path


def read_voc_xml(path: Path) -> Annotation:
    """Reads an annotation of PASCAL VOC.

    Its pixels are counted from 1 and the last one belongs to the box, so 1 is subtracted from xmin
    and ymin, and xmax and ymax stay, as in detectron2.

    Raises:
        UserError: damaged, with a document type or entity, too large, no number where one is
            expected, more than `MAX_OBJECTS`, or a box that is empty or outside the picture.

    Reference: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, the development kit.
    """
    root = _xml(path)
    boxes, names, difficult = [], [], []
    for element in root.findall("object"):
        corners = element.find("bndbox")
        name = (element.findtext("name") or "").strip()
        if corners is None or not name:
            raise UserError(f"'{path}' has an object without <name> or <bndbox>.")
        x1, y1, x2, y2 = (_number(path, corners, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        names.append(name)
        difficult.append(_flag(path, element))
    result = annotation(path, boxes, names, difficult)
    size = root.find("size")
    if size is not None:
        height, width = (_number(path, size, key) for key in ("height", "width"))
        check_inside(path, result.boxes, height, width)
    return result


def annotation(path: Path, boxes: Any, names: Any, difficult: Any, where: str = "") -> Annotation:
    """Makes an `Annotation`, after checks that need no picture.

    Raises:
        UserError: too many objects, or an empty box; `where` says in which picture of the file.
    """
    if len(names) > MAX_OBJECTS:
        raise UserError(
            f"'{path}' has {len(names)} objects{where}: expected at most {MAX_OBJECTS} a picture."
        )
    array = np.array(boxes, np.float32).reshape(-1, 4)
    for box in array[~np.all(array[:, 2:] > array[:, :2], axis=1)]:
        raise UserError(
            f"'{path}' has an empty box{where}, {_shown(box)} (x1, y1, x2, y2 from 0): expected "
            "x1 < x2 and y1 < y2."
        )
    return Annotation(array, tuple(names), np.array(difficult, bool).reshape(-1))


def check_inside(path: Any, boxes: np.ndarray, height: float, width: float) -> None:
    """Raises PictureError for a box [n,4] outside the picture."""
    outside = np.any(boxes < 0, axis=1) | (boxes[:, 2] > width) | (boxes[:, 3] > height)
    for box in boxes[outside]:
        raise PictureError(
            f"'{path}' has a box outside its picture of {height:g} x {width:g} pixels (height x "
            f"width): found {_shown(box)} (x1, y1, x2, y2 from 0)."
        )


def read_mask(path: Path, *, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Reads the class of every pixel from the indices of a palette PNG, or from a grey one.

    Args:
        path: of the file.
        num_classes: K: 0 is the background, 1 to K are the classes, 255 is ignored.
        size: (H, W) of the picture.

    Returns:
        uint8 [H,W].

    Raises:
        PictureError: damaged, in colours, of another size, or with another index.
    """
    data = _read(path, MAX_MASK)
    try:
        with open_image(data) as image:
            mode, (width, height) = image.mode, image.size
            if image.format != "PNG" or mode not in ("P", "L"):
                raise PictureError(
                    f"Mask '{path}' is {image.format} with mode {mode}: expected a PNG of 8 bits "
                    "with a palette or grey, whose indices are the classes."
                )
            _check_size(path, (height, width), size)
            check_whole(data, image)
            mask = np.array(image, np.uint8)
    except UserError:
        raise
    except Exception as error:  # decoders raise many types on damage
        what = str(error).partition("<_io")[0].strip() or type(error).__name__
        raise PictureError(f"Mask '{path}' cannot be decoded: {what}.") from error
    return _check_classes(path, mask, num_classes)


def read_sbd_mask(path: Path, *, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Reads a mask of SBD, field GTcls.Segmentation of a MATLAB file; arguments as `read_mask`.

    Reference: Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011,
        http://home.bharathh.info/pubs/codes/SBD/download.html.
    """
    data = _read(path, MAX_MASK)
    try:
        mask = read_field(data, "GTcls", "Segmentation", max_bytes=MAX_MASK)
        if mask.ndim != 2 or not np.array_equal(mask, np.round(mask)):
            raise ValueError(f"Segmentation is {mask.dtype.name} {list(mask.shape)}")
    except ValueError as error:
        raise PictureError(
            f"Mask '{path}' cannot be read: {error}. Expected a MATLAB 5 file of SBD with integers "
            "in the field GTcls.Segmentation."
        ) from error
    _check_size(path, mask.shape, size)
    return _check_classes(path, mask, num_classes)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: it cannot be read, is larger than `MAX_JSON`, or is no JSON.
    """
    try:
        return json.loads(_read(path, MAX_JSON))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{path}' is no JSON: {error}. Copy it again.") from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_file(path, max_bytes)
    except FileError as error:
        raise PictureError(f"'{path}' {error}.") from error


def _xml(path: Path) -> ElementTree.Element:
    try:
        text = _read(path, MAX_XML).decode("utf-8-sig")
        # Entities can fill the memory or read other files. As text the declared encoding does not
        # count, so nothing hides in another one.
        for mark in ("<!DOCTYPE", "<!ENTITY"):
            if mark in text:
                raise UserError(f"'{path}' has {mark}>: expected XML without. Remove it.")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is no XML in UTF-8: {error}. Copy it again.") from error


def _number(path: Path, element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"'{path}' has <{element.tag}><{key}> {text!r}: expected a number.")
    return value


def _flag(path: Path, element: ElementTree.Element) -> bool:
    text = (element.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise UserError(f"'{path}' has <difficult> {text!r}: expected 0 or 1.")
    return text == "1"


def _shown(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:g}" for x in box) + ")"


def _check_size(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(shape) != tuple(size) or math.prod(size) > MAX_PIXELS:
        raise PictureError(
            f"Mask '{path}' is {shape[0]} x {shape[1]} pixels (height x width): expected those of "
            f"its picture, {size[0]} x {size[1]}, and at most {MAX_PIXELS:,} in all."
        )


def _check_classes(path: Path, mask: np.ndarray, num_classes: int) -> np.ndarray:
    wrong = mask[(mask > num_classes) & (mask != IGNORED) | (mask < 0)]
    if len(wrong):
        raise PictureError(
            f"Mask '{path}' has the index {wrong[0]}: expected 0 for the background, 1 to "
            f"{num_classes} for the classes, and {IGNORED} where a pixel does not count."
        )
    return mask.astype(np.uint8)
