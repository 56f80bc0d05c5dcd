"""One item of a Python object as a picture and a label, checked; see `jssl.data.PythonSource`."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from PIL import Image, ImageOps

from jssl.data.decode import MIN_SIDE, Picture, PictureError
from jssl.errors import UserError

# Modes of Pillow with at most 8 bits a channel, whose conversion to RGB is defined.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
EXPECTED = (
    "a picture (of Pillow, an array uint8 [H,W,3] or [H,W], a path or the bytes of a file), a pair "
    "(picture, label), or a mapping {'image': picture, 'label': label}"
)
LARGEST = 2**31 - 1  # of a label, which is int32
MAX_CLASSES = 1_000_000  # counted from labels: a larger one is the number of something else


def split_item(item: Any, *, image: str, label: str | None, where: str) -> tuple[Any, int | None]:
    """Splits an item into its picture, not yet checked, and its label.

    Args:
        item: a picture, a pair or a mapping.
        image, label: keys of a mapping; no label is read if `label` is None.
        where: the item, for messages.

    Returns:
        The picture, and the label, -1 or above; None without one.

    Raises:
        UserError: a mapping without a picture, a tuple that is no pair, or a wrong label.

    Example:
        >>> split_item(('a.jpg', 3), image='image', label='label', where='Item 0')
        ('a.jpg', 3)
    """
    value: Any = None
    if isinstance(item, Mapping) and not _is_stored(item):
        if image not in item:
            raise UserError(
                f"{where} is a mapping with the keys {', '.join(map(repr, item))}: expected "
                f"'{image}'. Pass jssl.data.PythonSource(..., image=KEY, label=KEY)."
            )
        item, value = item[image], item.get(label) if label else None
    elif isinstance(item, tuple | list):
        if len(item) != 2:
            raise UserError(
                f"{where} is a {type(item).__name__} of {len(item)}: expected {EXPECTED}."
            )
        item, value = item
    return item, None if value is None or label is None else _label(value, where)


def _is_stored(item: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an encoded picture, as Hugging Face datasets stores it."""
    return set(item) == {"bytes", "path"}


def _label(value: Any, where: str) -> int:
    array = np.asarray(value) if not isinstance(value, bool) else np.asarray("")
    if array.shape != () or array.dtype.kind not in "iu":
        raise UserError(
            f"{where} has the label {_shown(value)}: expected one whole number from 0, the number "
            "of its class."
        )
    number = int(array)
    if not -1 <= number <= LARGEST:
        raise UserError(
            f"{where} has the label {number}: expected a whole number from 0, the number of its "
            "class, or -1 for none."
        )
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}" + "..." * (len(text) > 40)


def without_limit(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of `Picture.read` that hold for bytes in memory."""
    return {key: value for key, value in reading.items() if key != "max_megabytes"}


def picture_of(value: Any, where: str, **reading: Any) -> Picture | np.ndarray:
    """Converts a picture of any kind; paths and bytes are not decoded.

    Args:
        value: a path, bytes of a file, a picture of Pillow, or an array uint8 [H,W,3] or [H,W].
        where: the item, for messages.
        **reading: `bits`, `max_megabytes` and `upright` of `Picture.read`.

    Returns:
        A `Picture`, or uint8 [H,W,3].

    Raises:
        UserError: a value or an array of another kind.
        PictureError: a file that cannot be read, or a picture that cannot be used.

    Example:
        >>> picture_of(np.zeros((4, 6), np.uint8), 'Item 0').shape
        (4, 6, 3)
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, Mapping) and _is_stored(value):
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, str | os.PathLike):
        return Picture.read(os.path.expanduser(os.fspath(value)), **reading)
    if isinstance(value, bytes | bytearray | memoryview):
        return Picture(bytes(value), where, **without_limit(reading))
    if isinstance(value, Image.Image):
        return _of_pillow(value, where, upright=reading.get("upright", False))
    if hasattr(value, "__array__"):
        return _of_array(np.asarray(value), where)
    raise UserError(f"{where} is {_shown(value)}: expected {EXPECTED}.")


def _of_pillow(picture: Image.Image, where: str, *, upright: bool) -> np.ndarray:
    if picture.mode not in MODES:
        raise UserError(
            f"{where} is a picture of Pillow of mode '{picture.mode}': expected one of "
            f"{', '.join(MODES)}. Convert it to RGB, or give the path of its file."
        )
    try:
        if upright:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode == "P":  # otherwise Pillow warns of transparency; the alpha is dropped
            picture = picture.convert("RGBA")
        array = np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders raise many types on damage
        raise PictureError(f"{where} is a picture that cannot be read: {error}.") from error
    return _large_enough(array, where)


def _of_array(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype != np.uint8:
        _refuse_array(array, where, "pass levels 0..255 as x.astype(np.uint8)")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        _refuse_array(array, where, "its channels are first, pass np.moveaxis(x, 0, -1)")
    if array.ndim != 3 or array.shape[2] != 3:
        _refuse_array(array, where, "leave out other bands, and return one picture")
    return _large_enough(array, where)


def _refuse_array(array: np.ndarray, where: str, advice: str) -> NoReturn:
    shape = ",".join(map(str, array.shape))
    hint = ""
    if array.dtype.kind == "f":
        hint = " A transform such as torchvision's ToTensor makes such arrays: leave it out."
    raise UserError(
        f"{where} is an array {array.dtype} [{shape}]: expected uint8 [H,W,3] or [H,W]; "
        f"{advice}.{hint}"
    )


def _large_enough(array: np.ndarray, where: str) -> np.ndarray:
    if min(array.shape[:2]) < MIN_SIDE:
        raise PictureError(
            f"{where} is {array.shape[0]} x {array.shape[1]} pixels (height x width); expected at "
            f"least {MIN_SIDE} a side."
        )
    return array


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type.

    Example:
        >>> reason_of(OSError('gone\\nsee the log')), reason_of(EOFError())
        ('gone', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def content_of(source: Any, index: int) -> bytes:
    """Returns a hash of the picture and label of an example, for a fingerprint.

    Args:
        source: with `encoded`.
        index: of the example; one that cannot be read is hashed by its message.
    """
    try:
        example = source.encoded(index)
    except PictureError as error:
        return hashlib.sha256(str(error).encode()).digest()
    image = example["image"]
    encoded = isinstance(image, Picture)
    data = image.data if encoded else np.ascontiguousarray(image).tobytes()
    shape = "" if encoded else str(image.shape)
    return hashlib.sha256(data + f"{shape} {example['label']}".encode()).digest()
