"""Whether a picture file is whole, where its decoder does not look: checksums and unwritten ends.

Pillow does not compare the checksums of PNG and of deflated TIFF, and libwebp and libtiff decode
zeros, as a file has them whose end was never written, to grey or black without a word.
"""

import io
import struct
import zlib
from collections.abc import Iterator

import simplejpeg
from PIL import Image, TiffImagePlugin

UNWRITTEN = 64  # zero bytes at the end of coded data that are looked into
MOST = 8 * 89_478_485  # bytes that the parts of a TIFF hold: of the most pixels, 4 bands of 16 bits
CODE = (b"VP8 ", b"VP8L")  # parts of a WebP
MOSTLY_BLACK = 4096  # zero bytes at the end of data without a code, of which it is said
DEFLATE, JPEG, FAX = ("tiff_deflate", "tiff_adobe_deflate"), "jpeg", ("group3", "group4")


def check_whole(data: bytes, image: Image.Image) -> bool:
    """Looks for damage that decoding would pass over.

    Args:
        data: the content of the file.
        image: opened from it and not decoded.

    Returns:
        Whether a picture without code or checksum ends in zeros, as a tenth of it or more: black,
        or never written. Nothing in the file tells which.

    Raises:
        ValueError: what is wrong.
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
    """Finds zeros at the end of the code that no pixel needs: an encoder writes none."""
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
            continue  # they are needed: one colour in a row is coded so
        raise ValueError("its code ends in zeros of no use, its end was never written")


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
    left = MOST
    for part in parts:
        if kind in DEFLATE:
            left -= _check_deflate(part, left)
        elif kind == JPEG:
            left -= _check_jpeg(part, tags.get(347, b""), left)
        elif kind in FAX and bytes(UNWRITTEN) in part:  # its codes hold no more than 11 bits of 0
            raise ValueError(f"it has {UNWRITTEN} zero bytes in its code, a part was never written")
        elif kind == "tiff_lzw":  # whose code ends in a mark of its own
            _check_end(part)
    return False


def _check_end(part: bytes) -> None:
    if len(part) - len(part.rstrip(b"\0")) >= UNWRITTEN:
        raise ValueError("its code ends in zeros, its end was never written")


def _check_deflate(part: bytes, most: int) -> int:
    """The length of what is deflated, of which no more than a piece is held at once."""
    stream, length = zlib.decompressobj(), 0
    while part and not stream.eof:
        length += len(stream.decompress(part, 1 << 20))
        if length > most:
            raise ValueError(f"its parts hold more than {MOST:,} bytes")
        if not stream.unconsumed_tail and not stream.eof:
            raise ValueError("its deflated data is cut short")
        part = stream.unconsumed_tail
    return length


def _check_jpeg(part: bytes, tables: bytes, most: int) -> int:
    # Tables are a JPEG without picture, from its first mark to its last.
    whole = tables[:-2] + part[2:] if tables else part
    height, width, colour, _ = simplejpeg.decode_jpeg_header(whole)
    if height * width * 4 > most:
        raise ValueError(f"its parts hold more than {MOST:,} bytes")
    simplejpeg.decode_jpeg(whole, "CMYK" if colour in ("CMYK", "YCCK") else "GRAY", strict=True)
    return height * width * 4


def _ends_black(parts: list[bytes]) -> bool:
    zeros, total = 0, sum(map(len, parts))
    for part in reversed(parts):
        own = len(part) - len(part.rstrip(b"\0"))
        zeros += own
        if own < len(part):
            break
    return MOSTLY_BLACK <= zeros < total and zeros * 10 >= total
