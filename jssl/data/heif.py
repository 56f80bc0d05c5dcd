"""Opens HEIC and HEIF pictures with pillow-heif, the extra `heic`.

Rotations and mirrors that the file prescribes are applied, as its standard demands. Levels of more
than 8 bits are cut to 8. Its decoder conceals damage: only a file that is cut short, or whose end
was never written, is refused.
"""

import importlib
import importlib.util
import io
from typing import Any

from jssl.third_party import unchanged

ENDINGS = (".heic", ".heif", ".hif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
OTHERS = (b"avif", b"avis")  # in the same container
UNWRITTEN = 64  # zero bytes at the end: coded data never has more than two in a row
INSTALL = "pip install 'jssl[heic]'"


def readable() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_heif(data: bytes) -> bool:
    """Whether the content of a file is HEIC or HEIF.

    Example:
        >>> is_heif(b'\\0\\0\\0\\x1cftypheic\\0\\0\\0\\0mif1heic'), is_heif(b'\\x89PNG')
        (True, False)
    """
    if data[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[i : i + 4] for i in range(16, length, 4))]
    return any(brand in BRANDS for brand in brands) and not any(b in OTHERS for b in brands)


def open_heif(data: bytes) -> Any:
    """Opens a picture without decoding it: an `ImageFile` of Pillow.

    Args:
        data: the content of the file.

    Raises:
        ValueError: the extra is not installed, or the end of the file was never written.
        SyntaxError: damage, as Pillow raises it.
    """
    try:
        with unchanged():
            pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise ValueError(
            f"it is HEIC, which needs the package pillow-heif: type {INSTALL}"
        ) from None
    if _last_box(data) == b"mdat" and not any(data[-UNWRITTEN:]):
        raise ValueError("it ends in zeros, its end was never written")
    return pillow_heif.HeifImageFile(io.BytesIO(data))


def _last_box(data: bytes) -> bytes:
    """Returns the type of the last box of the container; b'' if it has none."""
    place, kind = 0, b""
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size == 0:  # up to the end
            return kind
        place += max(size, 8)
    return kind
