"""Converts Pillow's pictures to uint8 RGB: modes, bit depths, bands; see `jssl.data.decode`.

Pillow keeps only the high bytes of 16-bit colour; if `bits` is below 16, a second decode in the
other byte order reads the low bytes.
"""

import io
import re
import sys
from typing import TypeGuard

import numpy as np
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin, UnidentifiedImageError

from jssl.data import channels
from jssl.data.channels import Range
from jssl.data.heif import is_heif, open_heif
from jssl.data.whole import check_whole
from jssl.errors import UserError

FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # JPEG is read elsewhere
SRGB_GAMMA = 0.45455
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # of a TIFF by its photometric tag
ALPHA = (1, 2, 999)  # what extra samples of a TIFF may declare; 999 is Corel's
NO_BAND = "the order of its bands is not declared, so that red, green and blue are not known"
EXIF_MARKS = (b"eXIf", b"EXIF", b"Raw profile type ", b"tiff:Orientation")  # of PNG and WebP
MAX_TEXT = 64 * 2**20  # bytes of a PNM in plain text
DEEP_PNM = re.compile(rb"P([2356])\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,5})\s")


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Opens a picture of one of `FORMATS`, or HEIC, without decoding it.

    Raises:
        UserError: this process is set to accept truncated pictures.
        ValueError: no picture, or an unsupported TIFF.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UserError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: pictures that are cut short would be "
            "grey or black in part. Set it to False."
        )
    if is_heif(data):
        return open_heif(data)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        description = _undescribed(data)
        if description:
            raise ValueError(description) from None
        raise


def read_rgb(
    data: bytes, bits: int, limits: Range = (), *, alpha: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Decodes a picture other than JPEG.

    Args:
        data: the content of the file.
        bits: 0, or N: the largest level of samples stored in 16 bits is 2^N - 1, unless the file
            declares less than 16 bits.
        limits: () or (low, high): the levels of more than 8 bits that become 0 and 255.
        alpha: whether a straight alpha is kept as a fourth channel.

    Returns:
        uint8 [H,W,3], or [H,W,4] if there is an alpha that is kept, and the conversions of
        `jssl.data.decode.KINDS` that were made.

    Raises:
        Exception: any error of the decoder; ValueError for refused pictures.
    """
    with open_image(data) as image:
        kinds = ["black end"] if check_whole(data, image) else []
        frames = getattr(image, "is_animated", False)
        image.seek(0)
        raw = _raw_mode(image)
        deep = _deep_pnm(data) if image.format == "PPM" else None
        tags = getattr(image, "tag_v2", None)
        kinds += _bands(tags) if tags is not None else []
        if deep is not None:
            array, new_kinds = _from_levels(*deep, bits, limits)
        elif image.mode.startswith("I;16"):
            array, new_kinds = _from_levels(*_grey_levels(image), bits, limits)
        elif ";16" in raw and (bits or limits):
            levels = _colour_levels(data, image, raw, alpha)
            array, new_kinds = _from_levels(levels, 65535, bits, limits)
            new_kinds += ["alpha"] if "A" in raw else []
        else:
            array, new_kinds = _eight_bits(image, raw, limits, alpha)
        kinds += new_kinds + _ignored(image)
    if array.shape[2] == 4:
        kinds = [kind for kind in kinds if kind != "alpha"]
    return array, [*(["frames"] if frames else []), *dict.fromkeys(kinds)]


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Returns Pillow's raw mode of the samples in the file, such as 'RGB;16B'."""
    if not image.tile:
        return ""
    if _is_tiff(image) and _samples(image.tag_v2) == (16, 2):
        # Without libtiff, Pillow reads such planes as 8 bits.
        _set_raw(image, f"{''.join(image.getbands())};16N")
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _samples(tags) -> tuple[int, int]:
    """Returns the bits of a sample, and 2 for separate colour planes, else 1."""
    several = len(tags.get(258, (1,))) > 1 or tags.get(277, 1) > 1
    return max(tags.get(258, (1,))), tags.get(284, 1) if several else 1


def _set_raw(image: ImageFile.ImageFile, raw: str) -> None:
    """Sets another raw mode for decoding."""
    tile = image.tile[0]
    if _is_tiff(image):  # libtiff also reads uncompressed data
        extents = (0, 0, image.tag_v2[256], image.tag_v2[257])  # as stored, before rotation
        args = (raw, False, image.tag_v2.offset)
        image.tile = [tile._replace(codec_name="libtiff", extents=extents, offset=0, args=args)]
        image.use_load_libtiff = True
    else:
        image.tile = [tile._replace(args=raw)]


def _grey_levels(image: Image.Image) -> tuple[np.ndarray, int]:
    levels, largest = np.asarray(image).astype(np.uint16), 65535
    tags = getattr(image, "tag_v2", {})
    if _is_tiff(image):
        largest = 2 ** max(tags.get(258, (16,))) - 1
    return levels[..., None], -largest if tags.get(262) == 0 else largest  # 0: white is 0


def _is_tiff(image: Image.Image) -> TypeGuard[TiffImagePlugin.TiffImageFile]:
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def _colour_levels(data: bytes, image: ImageFile.ImageFile, raw: str, alpha: bool) -> np.ndarray:
    """Reads all 16 bits of a colour picture: uint16 [H,W,1, 3 or, with an alpha kept, 4]."""
    name = raw.partition(";")[0]
    planes = _is_tiff(image) and _samples(image.tag_v2)[1] == 2
    if name not in ("RGB", "RGBA", "RGBX", "LA") or planes:
        raise ValueError(
            "data.bits or data.range is given, but 16 bits a channel are not read in full of a "
            f"picture of {'colours in planes of their own' if planes else f'kind {name}'}; "
            "expected interleaved RGB or grey"
        )
    if name == "LA":  # its four bytes unchanged
        _set_raw(image, "RGBA")
        both = np.asarray(image).astype(np.uint16)
        return both[..., :1] * 256 + both[..., 1:2]
    # In the other byte order, Pillow takes the low byte for the high one.
    order = raw[-1] if image.format == "PNG" else "L" if sys.byteorder == "little" else "B"
    parts = []
    for byte_order in (order, "LB"[order == "L"]):
        with open_image(data) as other:
            other.seek(0)
            _set_raw(other, f"{name};16{byte_order}")
            kept = 4 if alpha and name == "RGBA" else 3
            parts.append(np.asarray(other)[..., :kept].astype(np.uint16))
    return parts[0] * 256 + parts[1]


def _from_levels(
    levels: np.ndarray, largest: int, bits: int, limits: Range
) -> tuple[np.ndarray, list[str]]:
    """Converts levels [H,W,C] above 8 bits to uint8, one to three; `largest` < 0: white is 0."""
    inverted, largest = largest < 0, abs(largest)
    declared = f"{largest} that the file declares"
    if bits and largest == 65535:
        largest, declared = 2**bits - 1, f"{2**bits - 1} of data.bits={bits}"
    top = int(levels.max(initial=0))
    if levels.min(initial=0) < 0:
        raise ValueError(f"it has a level of {levels.min()}, below 0")
    if top > largest:
        raise ValueError(f"it has a level of {top}, above the {declared}")
    if limits:
        array, kinds = channels.scaled(largest - levels if inverted else levels, limits)
        if levels.shape[2] == 1:
            array, kinds = np.repeat(array, 3, axis=2), [*kinds, "grey"]
        return array, kinds
    kinds = ["16-bit"]
    if largest == 65535 and not bits and top < 4096:
        kinds.append("dark 16-bit")
    if levels.shape[2] == 1:
        kinds.append("grey")
    scaled = (levels.astype(np.uint32) * 256 // (largest + 1)).astype(np.uint8)
    scaled = 255 - scaled if inverted else scaled
    return np.repeat(scaled, 3, axis=2) if levels.shape[2] == 1 else scaled, kinds


def _deep_pnm(data: bytes) -> tuple[np.ndarray, int] | None:
    """Returns levels and largest level of a PGM or PPM of more than 8 bits, None for others.

    Pillow uses a Python loop for these, and cuts colour to 8 bits.
    """
    head = data[:4096]
    match = DEEP_PNM.match(re.sub(rb"#[^\r\n]*", lambda comment: b" " * len(comment[0]), head))
    if match is None or int(match[4]) < 256:
        return None
    channels = 3 if int(match[1]) in (3, 6) else 1
    width, height, largest = (int(match[i]) for i in (2, 3, 4))
    count = height * width * channels
    if int(match[1]) in (2, 3):
        if len(data) > MAX_TEXT:  # the tokens take much more memory than the levels
            raise ValueError(f"it is text of {len(data):,} bytes; expected at most {MAX_TEXT:,}")
        tokens = re.sub(rb"#[^\r\n]*", b"", data[match.end() :]).split(None, count)[:count]
        values = np.array([int(token) for token in tokens])
    else:
        values = np.frombuffer(data[match.end() : match.end() + 2 * count], ">u2")
    if len(values) < count:
        raise ValueError(f"it is cut short: {len(values)} values of {count}")
    return values.reshape(height, width, channels), largest


def _bands(tags) -> list[str]:
    """Returns the kinds of bands of a TIFF besides its colours.

    Raises:
        ValueError: signed samples, or more bands than its colour type has.
    """
    kind = tags.get(262, 1)
    samples, extra = tags.get(277, 1), tags.get(338, ())
    if set(tags.get(339, (1,))) - {1, 4}:
        raise ValueError(
            f"its samples are {'signed' if 2 in tags[339] else 'floating'} numbers, whose range is "
            "not known; expected unsigned ones of 8 or 16 bits"
        )
    num_extra = max(samples - COLOURS.get(kind, samples), 0)
    alpha = min(sum(sample in ALPHA for sample in extra), num_extra)
    if kind in (0, 1) and num_extra - alpha > 1:
        raise ValueError(f"it has {samples} bands, and {NO_BAND}; expected grey or RGB")
    return ["extra band"] * (num_extra > alpha) + ["alpha"] * (alpha > 0)


def _undescribed(data: bytes) -> str:
    """Describes a TIFF that Pillow does not support, '' for others."""
    if not data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return ""
    big = data[2:4] in (b"\0\x2b", b"\x2b\0")
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        if "extra band" in _bands(tags) and tags.get(284) == 2:
            return (
                f"it has {tags.get(277)} bands, each in a plane of its own; expected interleaved "
                "ones, as of gdal_translate -co INTERLEAVE=PIXEL"
            )
        bits, kind = "/".join(map(str, tags.get(258, (1,)))), tags.get(262)
    except ValueError as error:
        return str(error)
    except Exception:  # incomplete directory: the decoder's own message suffices
        return ""
    if kind is None:
        return ""
    return f"it is a TIFF of {bits} bits of kind {kind}, which is not read"


def _eight_bits(
    image: Image.Image, raw: str, limits: Range, alpha: bool
) -> tuple[np.ndarray, list[str]]:
    kinds = []
    image.load()
    mode = image.mode
    if mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode '{mode}', 8 or 16 bits a channel were expected")
    if ";16" in raw or image.info.get("bit_depth", 8) > 8:  # the latter of HEIC
        if limits:
            raise ValueError("data.range is given, but its decoder gives only 8 bits")
        kinds.append("16-bit")
    bands = image.getbands()
    transparent = "transparency" in image.info
    unknown = _is_tiff(image) and not set(image.tag_v2.get(338, ())) & set(ALPHA)
    if (bands[-1] in "Aa" or transparent) and not unknown:
        kinds.append("alpha")
    if mode in ("1", "L", "LA", "La") or raw.startswith("LA;16"):
        kinds.append("grey")
    if mode in ("P", "PA"):
        kinds.append("palette")
    if mode in ("CMYK", "LAB"):
        kinds.append(mode)
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, mode, "RGB").apply(image)
    if mode in ("RGBa", "La"):
        image = image.convert(mode[:-1] + "A")  # undoes the premultiplied alpha
    if transparent and mode == "P":
        image = image.convert("RGBA")  # otherwise Pillow warns; the alpha is dropped below
    array = np.asarray(image.convert("RGBA" if alpha and image.mode == "RGBA" else "RGB"))
    if ";16" in raw and array.max(initial=0) < 16 and mode in ("RGB", "RGBA"):
        kinds.append("dark 16-bit")
    return array, kinds


def _ignored(image: Image.Image) -> list[str]:
    """Returns the kinds of metadata of a decoded picture that are not applied."""
    gamma = image.info.get("gamma", SRGB_GAMMA)
    other = not is_srgb(image.info.get("icc_profile") or b"") or abs(gamma - SRGB_GAMMA) > 0.01
    return ["profile"] * other + ["orientation"] * (_orientation(image) != 1)


def exif_orientation(data: bytes) -> int:
    """Returns the EXIF orientation of a picture other than JPEG, 1 to 8; 1 for a TIFF.

    Pillow turns a TIFF itself, and decodes a PNG to look for metadata at its end: only a file in
    which there is some is opened.
    """
    if not any(mark in data for mark in EXIF_MARKS):
        return 1
    with open_image(data) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    return 1 if _is_tiff(image) else valid_orientation(image.getexif().get(0x0112, 1))


def valid_orientation(value: object) -> int:
    """Returns an orientation as it was declared; 1 for what is none.

    Example:
        >>> valid_orientation(6), valid_orientation(0), valid_orientation('6')
        (6, 1, 1)
    """
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_srgb(profile: bytes) -> bool:
    """Whether a colour profile is empty or names sRGB.

    Example:
        >>> profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB'))
        >>> is_srgb(b''), is_srgb(profile.tobytes()), is_srgb(b'Adobe RGB')
        (True, True, False)
    """
    return not profile or b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile
