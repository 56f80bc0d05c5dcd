"""Checks that a picture file is complete: checksums and unwritten ends, which decoders ignore.

Pillow does not verify the checksums of PNG and of deflated TIFF, and libwebp and libtiff silently
decode zeros, from a file whose end was never written, to grey or black.
"""

import io
import struct
import zlib
from collections.abc import Iterator

import simplejpeg
from PIL import Image, TiffImagePlugin

UNWRITTEN = 64  # zero bytes at the end of coded data that trigger a check
MOST = 8 * 89_478_485  # largest size of the parts of a TIFF: most pixels, 4 bands of 16 bits
CODE = (b"VP8 ", b"VP8L")  # image chunks of a WebP
MOSTLY_BLACK = 4096  # zero bytes at the end of raw data that are reported
DEFLATE, JPEG, FAX = ("tiff_deflate", "tiff_adobe_deflate"), "jpeg", ("group3", "group4")


def check_whole(data: bytes, image: Image.Image) -> bool:
    """Checks for damage that decoders ignore.

    Args:
        data: the content of the file.
        image: opened from it and not decoded.

    Returns:
        Whether the last tenth or more of a raw picture is zeros: either black or never written.

    Raises:
        ValueError: the file is damaged.
    """
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=["PNG"]) as other:
            other.verify()
    elif image.format == "WEBP":
        _check_webp(data, image)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        return _check_tiff(data, image)
    elif image.format in ("BMP", "PPM"):
        return _ends_black([data])
    return False


def _check_webp(data: bytes, image: Image.Image) -> None:
    """Raises ValueError for unneeded zeros at the end of the code: an encoder writes none."""
    for name, part in _chunks(data[12 : 8 + struct.unpack_from("<I", data, 4)[0]]):
        if name == bytes(4):
            raise ValueError("it ends in zeros, its end was never written")
        if name == b"ANMF":  # a frame holds chunks of its own
            name, part = next(((n, p) for n, p in _chunks(part[16:]) if n in CODE), (name, b""))
        if name not in CODE or len(part) - len(part.rstrip(b"\0")) < UNWRITTEN:
            continue
        part = part[: -UNWRITTEN // 2]
        body = b"WEBP" + struct.pack("<4sI", name, len(part)) + part
        head = struct.pack("<4sI", b"RIFF", len(body))
        try:
            with Image.open(io.BytesIO(head + body), formats=["WEBP"]) as other:
                if max(other.size) > max(image.size):
                    raise ValueError("a frame is larger than the picture")
                other.load()
        except (OSError, ValueError):
            continue  # the zeros are needed, as for a run of one colour
        raise ValueError("its code ends in unused zeros, its end was never written")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _check_tiff(data: bytes, image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    kind = image.info.get("compression")
    offsets = tags.get(324) or tags.get(273) or ()  # of tiles or strips
    sizes = tags.get(325) or tags.get(279) or ()
    places = list(dict.fromkeys(zip(offsets, sizes, strict=False)))  # equal tiles are stored once
    if sum(size for _, size in places) > 2 * len(data):
        raise ValueError("its parts overlap, or lie beyond its end")
    parts = [data[place : place + size] for place, size in places]
    if kind == "raw":
        return _ends_black(parts)
    remaining = MOST
    for part in parts:
        if kind in DEFLATE:
            remaining -= _check_deflate(part, remaining)
        elif kind == JPEG:
            remaining -= _check_jpeg(part, tags.get(347, b""), remaining)
        elif kind in FAX and bytes(UNWRITTEN) in part:  # its codes have at most 11 zero bits
            raise ValueError(f"it has {UNWRITTEN} zero bytes in its code, a part was never written")
        elif kind == "tiff_lzw":  # its code ends in a nonzero end mark
            _check_end(part)
    return False


def _check_end(part: bytes) -> None:
    if len(part) - len(part.rstrip(b"\0")) >= UNWRITTEN:
        raise ValueError("its code ends in zeros, its end was never written")


def _check_deflate(part: bytes, limit: int) -> int:
    """Returns the decompressed length, with only a chunk in memory at once."""
    stream, length = zlib.decompressobj(), 0
    while part and not stream.eof:
        length += len(stream.decompress(part, 1 << 20))
        if length > limit:
            raise ValueError(f"its parts hold more than {MOST:,} bytes")
        if not stream.unconsumed_tail and not stream.eof:
            raise ValueError("its deflated data is cut short")
        part = stream.unconsumed_tail
    return length


def _check_jpeg(part: bytes, tables: bytes, limit: int) -> int:
    # The tables are a JPEG without image data, from its first marker to its last.
    jpeg = tables[:-2] + part[2:] if tables else part
    height, width, colour, _ = simplejpeg.decode_jpeg_header(jpeg)
    if height * width * 4 > limit:
        raise ValueError(f"its parts hold more than {MOST:,} bytes")
    simplejpeg.decode_jpeg(jpeg, "CMYK" if colour in ("CMYK", "YCCK") else "GRAY", strict=True)
    return height * width * 4


def _ends_black(parts: list[bytes]) -> bool:
    zeros, total = 0, sum(map(len, parts))
    for part in reversed(parts):
        num_zeros = len(part) - len(part.rstrip(b"\0"))
        zeros += num_zeros
        if num_zeros < len(part):
            break
    return MOSTLY_BLACK <= zeros < total and zeros * 10 >= total
