"""What may be passed as pictures: paths, pictures of Pillow and arrays, checked one by one."""

import os
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from jssl import data
from jssl.data.channels import grey_of, scaled
from jssl.data.decode import Picture
from jssl.data.items import MODES
from jssl.errors import UserError
from jssl.evaluate.pictures import Transform

Item = str | Image.Image | np.ndarray


def taken(channels: int) -> str:
    """Says what may be passed as pictures of a number of channels."""
    return (
        f"a path, a picture of Pillow, an array [H,W,{channels}] or [B,H,W,{channels}], or a list "
        "of these"
    )


class Items:
    """Paths and arrays as a source; see `jssl.data.Source`.

    If an item is of floats, all images are float32 in [0, 1], else uint8.

    Args:
        items: M paths, or arrays [H,W,C], uint8 or float32 in [0, 1].
        transform: to a square picture, see `jssl.data.eval_transform`.
        side: of that square; an array of this side is taken as it is.
        **reading: the keys of `Picture.read`.
    """

    name, num_classes, image_shape, on_error = "pictures", 0, None, "stop"
    class_names: tuple[str, ...] = ()

    def __init__(self, items: list[Item], transform: Transform, *, side: int, **reading: Any):
        self._items, self._transform, self._side, self._reading = items, transform, side, reading
        self._floats = any(isinstance(x, np.ndarray) and x.dtype != np.uint8 for x in items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            image = self._square(self._items[index])
        except data.PictureError as error:
            raise UserError(f"{error} Leave it out.") from error
        if self._floats and image.dtype == np.uint8:
            image = image.astype(np.float32) / 255
        return {"image": image, "label": np.int32(-1), "index": np.int32(index)}

    def _square(self, item: Item) -> np.ndarray:
        image: Any
        if isinstance(item, str):
            image = Picture.read(item, **self._reading)
        elif isinstance(item, Image.Image):
            upright = self._reading.get("upright", False)
            image = np.asarray(ImageOps.exif_transpose(item) if upright else item)
            image = grey_of(image) if self._reading.get("channels", 3) == 1 else image
        elif item.shape[:2] == (self._side, self._side):
            return item
        else:  # the resize is Pillow's, of 8 bits
            floats = item.dtype != np.uint8
            image = np.rint(item * np.float32(255)).astype(np.uint8) if floats else item
        return self._transform({"image": image}, None)["image"]

    def fingerprint(self) -> str:
        """Returns '': nothing is resumed."""
        return ""


def as_items(pictures: Any, channels: int = 3, levels: tuple[float, ...] = ()) -> list[Item]:
    """Checks what was passed as pictures, and lists it.

    Args:
        pictures: a path, a picture of Pillow, an array [H,W,C] or [B,H,W,C], or a list of these.
        channels: number C.
        levels: () or (low, high): the levels of uint16 that become 0 and 255.

    Returns:
        Paths, pictures of Pillow that become C channels, and arrays [H,W,C] of uint8 or of float32
        in [0, 1].

    Raises:
        UserError: nothing, or an array of another kind.

    Example:
        >>> [item.shape for item in as_items(np.zeros((2, 8, 6, 3), np.uint8))]
        [(8, 6, 3), (8, 6, 3)]
        >>> as_items(np.zeros((8, 6), np.uint8))
        Traceback (most recent call last):
        jssl.errors.UserError: Found a grey array uint8 [8,6]: expected three channels, [H,W,3] \
or [B,H,W,3]; pass np.stack([x] * 3, axis=-1).
    """
    if _is_one(pictures):
        items = _listed(pictures, channels, levels)
    elif isinstance(pictures, Iterable):
        items = [item for picture in pictures for item in _listed(picture, channels, levels)]
    else:
        _refuse(pictures, channels)
    if not items:
        raise UserError(f"Found no pictures, an empty list or array: expected {taken(channels)}.")
    return items


def _is_one(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | Image.Image) or hasattr(value, "__array__")


def _listed(value: Any, channels: int, levels: tuple[float, ...]) -> list[Item]:
    if isinstance(value, str | os.PathLike):
        path = os.path.expanduser(os.fspath(value))
        if os.path.isdir(path):
            raise UserError(
                f"'{path}' is a folder: expected a picture; pass "
                f"jssl.data.find_pictures(['{path}'])."
            )
        return [path]
    if isinstance(value, Image.Image):
        return [_of_pillow(value, channels)]
    if hasattr(value, "__array__"):
        return _of_array(np.asarray(value), channels, levels)
    _refuse(value, channels)


def _refuse(value: Any, channels: int) -> NoReturn:
    raise UserError(f"Found {type(value).__name__} as pictures: expected {taken(channels)}.")


def _of_pillow(picture: Image.Image, channels: int) -> Image.Image:
    if picture.mode not in MODES:
        raise UserError(
            f"Found a picture of Pillow of mode '{picture.mode}': expected one of "
            f"{', '.join(MODES)}; save it to a file and pass the path, or convert it to RGB."
        )
    try:
        if picture.mode == "P":  # else Pillow warns of transparency
            picture = picture.convert("RGBA")
        if channels == 4 and picture.mode == "RGBA":
            return picture
        if channels not in (1, 3):
            raise UserError(
                f"Found a picture of Pillow of mode '{picture.mode}': expected {channels} "
                f"channels, as the run was trained on; pass an array [H,W,{channels}]."
            )
        return picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"A picture of Pillow cannot be read: {error}. Leave it out.") from error


def _of_array(array: np.ndarray, channels: int, levels: tuple[float, ...]) -> list[Item]:
    """Returns the pictures of an array; refuses what is not [H,W,C] or [B,H,W,C] in range."""
    shape = f"{array.dtype} [{','.join(map(str, array.shape))}]"
    if array.ndim not in (3, 4) or array.shape[-1] != channels:
        _refuse_shape(array, shape, channels)
    if array.size == 0:
        return []
    if array.dtype == np.uint16 and levels:
        low, high = levels
        if outside := int(((array < low) | (array > high)).sum()):
            logging.warning(
                "%s of %s levels of an array are outside data.range=(%g, %g): they were clipped",
                f"{outside:,}", f"{array.size:,}", low, high,
            )  # fmt: skip
        array = scaled(array, levels)[0]
    kind = array.dtype.name
    if kind not in ("uint8", "float16", "bfloat16", "float32", "float64"):
        raise UserError(
            f"Found an array {shape}: expected uint8, or float in [0, 1]; pass "
            "x.astype(np.uint8) of levels in 0..255."
        )
    if kind != "uint8":
        array = array.astype(np.float32)
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also NaN
            raise UserError(f"Found an array {shape} in {low:g}..{high:g}: {_range(low, high)}")
    return [array] if array.ndim == 3 else list(array)


def _range(low: float, high: float) -> str:
    if low >= 0 and high <= 255:
        return "expected uint8 in 0..255, or float in [0, 1]; pass x.astype(np.uint8) or x / 255."
    if np.isfinite([low, high]).all():
        return "expected float in [0, 1], as the network normalises; pass x before that."
    return "expected numbers in [0, 1] and none that is not finite."


def _refuse_shape(array: np.ndarray, shape: str, channels: int) -> None:
    last = f"[H,W,{channels}] or [B,H,W,{channels}]"
    if array.ndim in (3, 4) and array.shape[-3] == channels:
        raise UserError(
            f"Found an array {shape} with its channels first: expected them last, {last}; pass "
            "np.moveaxis(x, -3, -1)."
        )
    if channels != 3:
        advice = "; pass x[..., None]" if channels == 1 and array.ndim == 2 else ""
        number = f"{channels} channel{'s' * (channels > 1)}"
        raise UserError(f"Found an array {shape}: expected {number}, {last}{advice}.")
    expected = f"expected three channels, {last}"
    if array.ndim in (3, 4) and array.shape[-1] == 4:
        raise UserError(f"Found an array {shape} of four channels: {expected}; pass x[..., :3].")
    if array.ndim in (3, 4) and array.shape[-1] == 1:
        raise UserError(f"Found a grey array {shape}: {expected}; pass np.repeat(x, 3, axis=-1).")
    if array.ndim in (2, 3) and array.size:
        raise UserError(f"Found a grey array {shape}: {expected}; pass np.stack([x] * 3, axis=-1).")
    raise UserError(f"Found an array {shape}: {expected}.")
