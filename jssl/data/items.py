"""One item of a Python object as a picture and a label, checked; see `jssl.data.PythonSource`."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from PIL import Image, ImageOps

from jssl.data import plain_npy
from jssl.data.channels import grey_of, need_range, other_channels
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
        value: a path, bytes of a file, a picture of Pillow, or an array [H,W,C], or [H,W] of one
            channel or three equal ones; uint8, or uint16 with `levels`.
        where: the item, for messages.
        **reading: the keys of `Picture.read`.

    Returns:
        A `Picture`, also for an array of uint16, or uint8 [H,W,C].

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
    channels = reading.get("channels", 3)
    if isinstance(value, Image.Image):
        return _of_pillow(value, where, channels, upright=reading.get("upright", False))
    if hasattr(value, "__array__"):
        array = _of_array(np.asarray(value), where, channels, reading.get("levels", ()))
        if array.dtype == np.uint8:
            return array
        # As a file in memory: its levels are scaled, and the clipped ones reported, as of one.
        return Picture(plain_npy.bytes_of(array), where, **without_limit(reading))
    raise UserError(f"{where} is {_shown(value)}: expected {EXPECTED}.")


def _of_pillow(picture: Image.Image, where: str, channels: int, *, upright: bool) -> np.ndarray:
    if picture.mode not in MODES:
        raise UserError(
            f"{where} is a picture of Pillow of mode '{picture.mode}': expected one of "
            f"{', '.join(MODES)}. Convert it to RGB, or give the path of its file."
        )
    try:
        if upright:
            picture = ImageOps.exif_transpose(picture)
        array = pixels_of(picture, channels)
    except UserError as error:
        raise UserError(f"{where} is a picture of Pillow that {error}.") from error
    except Exception as error:  # decoders raise many types on damage
        raise PictureError(f"{where} is a picture that cannot be read: {error}.") from error
    return _large_enough(array, where)


def pixels_of(picture: Image.Image, channels: int) -> np.ndarray:
    """Converts a picture of Pillow of one of `MODES`: uint8 [H,W,C].

    Args:
        picture: of at most 8 bits a channel.
        channels: number C: 3, 1 (luma), or 4 if the picture has an alpha.

    Raises:
        UserError: another number of channels.

    Example:
        >>> pixels_of(Image.new('RGB', (3, 2), (255, 0, 0)), 1)[0, 0].tolist()
        [76]
    """
    if picture.mode == "P":  # otherwise Pillow warns of transparency
        picture = picture.convert("RGBA")
    if channels == 4 and picture.mode == "RGBA":
        return np.asarray(picture)
    rgb = np.asarray(picture.convert("RGB"))
    if channels not in (1, 3):
        raise UserError(other_channels(rgb.shape, channels))
    return grey_of(rgb) if channels == 1 else rgb


def _of_array(
    array: np.ndarray, where: str, channels: int, limits: tuple[float, ...]
) -> np.ndarray:
    """Returns uint8 or, with a range, uint16 [H,W,C]."""
    if array.dtype == np.uint16 and not limits:
        need_range(where)
    if array.dtype not in (np.uint8, np.uint16):
        _refuse_array(array, where, channels, "pass levels 0..255 as x.astype(np.uint8)")
    if array.ndim == 2 and channels in (1, 3):
        array = np.repeat(array[..., None], channels, axis=2)
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        advice = "its channels are first, pass np.moveaxis(x, 0, -1)"
        _refuse_array(array, where, channels, advice)
    if array.ndim != 3:
        _refuse_array(array, where, channels, "return one picture")
    if array.shape[2] != channels:
        advice = f"leave out other bands, or set data.channels={array.shape[2]}"
        _refuse_array(array, where, channels, advice)
    return _large_enough(array, where)


def _refuse_array(array: np.ndarray, where: str, channels: int, advice: str) -> NoReturn:
    shape = ",".join(map(str, array.shape))
    flat = " or [H,W]" if channels in (1, 3) else ""
    hint = ""
    if array.dtype.kind == "f":
        hint = " A transform such as torchvision's ToTensor makes such arrays: leave it out."
    raise UserError(
        f"{where} is an array {array.dtype} [{shape}]: expected uint8 [H,W,{channels}]{flat}; "
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
