"""Decodes JPEG to uint8 RGB with libjpeg-turbo in strict mode, and reads its headers."""

import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from jssl.data.modes import is_srgb, valid_orientation

MAGIC = b"\xff\xd8\xff"
MAX_SCANS = 500  # of a progressive JPEG: more only cost time


def read_rgb(data: bytes, min_height: int, min_width: int) -> tuple[np.ndarray, list[str]]:
    """Decodes a JPEG, at 1/2, 1/4 or 1/8 of its size if the result is not below the bounds.

    Args:
        data: the content of the file.
        min_height, min_width: smallest size of the result in pixels.

    Returns:
        uint8 [h,w,3], and the conversions of `jssl.data.decode.KINDS` that were made.

    Raises:
        ValueError: damage, even if libjpeg could repair it; too many scans.
    """
    # In coded data 0xff is followed by 0: this counts scans, also those of previews.
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} scans")
    colour = simplejpeg.decode_jpeg_header(data)[2]
    ink = colour in ("CMYK", "YCCK")
    array = simplejpeg.decode_jpeg(
        data,
        "CMYK" if ink else "RGB",
        min_height=min_height,
        min_width=min_width,
        min_factor=2,  # other factors than halves have no fast path
        strict=True,
    )
    segments = list(_segments(data))
    kinds = ["CMYK"] if ink else ["grey"] if colour.lower() == "gray" else []
    if ink:
        by_adobe = any(marker == 0xEE and body.startswith(b"Adobe") for marker, body in segments)
        array = 255 - array if by_adobe else array
        array = np.asarray(Image.frombytes("CMYK", array.shape[1::-1], array).convert("RGB"))
    return array, kinds + _ignored(segments)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of each segment before the coded data."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:
            return
        size = struct.unpack_from(">H", data, place + 2)[0]
        yield marker, data[place + 4 : place + 2 + size]
        place += 2 + size


def _ignored(segments: list[tuple[int, bytes]]) -> list[str]:
    kinds = []
    profile = b"".join(
        body[14:] for marker, body in segments if marker == 0xE2 and body[:12] == b"ICC_PROFILE\0"
    )
    if not is_srgb(profile):
        kinds.append("profile")
    for marker, body in segments:
        if _turned(marker, body) != 1:
            kinds.append("orientation")
        if marker == 0xE2 and body.startswith(b"MPF\0"):
            kinds.append("frames")
    return list(dict.fromkeys(kinds))


def orientation(data: bytes) -> int:
    """Returns the EXIF orientation of a JPEG, 1 to 8; 1 if it declares none.

    Example:
        >>> import io
        >>> buffer, exif = io.BytesIO(), Image.Exif()
        >>> exif[0x0112] = 6
        >>> Image.new('RGB', (4, 3)).save(buffer, 'JPEG', exif=exif)
        >>> orientation(buffer.getvalue())
        6
    """
    declared = (_turned(marker, body) for marker, body in _segments(data))
    return next((value for value in declared if value != 1), 1)


def _turned(marker: int, body: bytes) -> int:
    """Returns the EXIF orientation in a segment; 1 if there is none."""
    if marker != 0xE1 or not body.startswith(b"Exif\0\0"):
        return 1
    exif = Image.Exif()
    try:
        exif.load(body)
        return valid_orientation(exif.get(0x0112, 1))
    except Exception:  # damaged metadata; the pixels do not need it
        return 1
