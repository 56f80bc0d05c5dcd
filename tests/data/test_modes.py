"""The table of `jssl.data.decode`: inputs, outputs, and what is reported."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image, ImageCms

from jssl.data import PictureError, decode
from jssl.data.decode import KINDS, Picture

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
FOURTH = RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
DEEP[0, 0], DEEP[0, 1] = 0, 65535
DEEP_FOURTH = RNG.integers(0, 65536, (20, 30, 1), dtype=np.uint16)
BITS = GREY > 127


def saved(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def tagged(data, tag, value):
    """A little-endian TIFF with another value of a tag of one SHORT."""
    ifd = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, ifd)[0]):
        place = ifd + 2 + 12 * i
        if struct.unpack_from("<H", data, place)[0] == tag:
            return data[:place] + struct.pack("<HHIHH", tag, 3, 1, value, 0) + data[place + 12 :]
    raise KeyError(tag)


def planes(array):
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def chunk(name, body=b""):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(array, depth, colour, *more):
    """A PNG of samples [H,W,C]; of less than 8 bits packed."""
    height, width = array.shape[:2]
    if depth < 8:
        bits = np.unpackbits(array.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row).tobytes() for row in bits.reshape(height, -1)]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in array]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    inner = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", body) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + inner


def interlaced(array, depth):
    """An RGB PNG in the seven passes of Adam7: (first row, first column, row step, column step)."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    parts = [array[y::down, x::across] for y, x, down, across in passes]
    rows = [b"\0" + row.astype(f">u{depth // 8}").tobytes() for part in parts for row in part]
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, 2, 0, 0, 1)
    inner = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + inner


def pnm(kind, array, largest):
    head = f"P{kind}\n# a comment\n{array.shape[1]} {array.shape[0]}\n{largest}\n".encode()
    if kind < 4:
        return head + " ".join(map(str, array.ravel())).encode()
    return head + array.astype(">u2" if largest > 255 else "u1").tobytes()


def three(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def ink(cmyk):
    """The naive conversion of CMYK, of 255 levels."""
    cmyk = cmyk.astype(np.float64)
    return (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255


def without_adobe(data):
    place = data.index(b"\xff\xee")
    return data[:place] + data[place + 2 + struct.unpack_from(">H", data, place + 2)[0] :]


FLAT_INK = np.broadcast_to(np.uint8([200, 120, 40, 60]), (16, 16, 4)).copy()
PILLOW_CMYK = saved(Image.frombytes("CMYK", (16, 16), FLAT_INK.tobytes()), "JPEG", quality=100)
TWO = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
PALETTE = Image.fromarray(RGB).quantize(16)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
EXIF = Image.Exif()
EXIF[0x0112] = 6
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OTHER_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
PREMULTIPLIED = np.dstack([np.full((20, 30, 3), 50), np.full((20, 30), 100)]).astype(np.uint8)
PADDED = {"photometric": "rgb", "extrasamples": ["unspecified"]}
SEPARATE = {"planarconfig": "separate", **PADDED}
LAB = np.broadcast_to(np.uint8([[255, 0, 0], [0, 0, 0]]), (4, 2, 3)).copy()
WIDE = np.concatenate([DEEP, DEEP_FOURTH], axis=2)
# Where a lossy code is between, flat colours come back within its rounding.
FLAT = np.full((16, 16, 3), (200, 100, 50), np.uint8)

# name: (file, what comes out, what is said, tolerance, bits)
TABLE = {
    "png 8": (saved(RGB), RGB, (), 0, 0),
    "png interlaced": (interlaced(RGB, 8), RGB, (), 0, 0),
    "png 16 interlaced, 12": (interlaced(DEEP >> 4, 16), DEEP >> 8, ("16-bit",), 0, 12),
    "png grey 8": (saved(GREY), three(GREY), ("grey",), 0, 0),
    "png grey 1": (png(GREY[..., None] % 2, 1, 0), three(GREY % 2 * 255), ("grey",), 0, 0),
    "png grey 2": (png(GREY[..., None] % 4, 2, 0), three(GREY % 4 * 85), ("grey",), 0, 0),
    "png grey 4": (png(GREY[..., None] % 16, 4, 0), three(GREY % 16 * 17), ("grey",), 0, 0),
    "png grey 16": (png(DEEP[..., :1], 16, 0), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "png grey 16, 12": (
        png(DEEP[..., :1] >> 4, 16, 0), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 12),
    "png grey 16, 10": (
        png(DEEP[..., :1] >> 6, 16, 0), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 10),
    "png grey 16, dark": (
        png(DEEP[..., :1] >> 4, 16, 0), three(DEEP[..., 0] >> 12),
        ("16-bit", "dark 16-bit", "grey"), 0, 0),
    "png 16": (png(DEEP, 16, 2), DEEP >> 8, ("16-bit",), 0, 0),
    "png 16, 12": (png(DEEP >> 4, 16, 2), DEEP >> 8, ("16-bit",), 0, 12),
    "png 16, 16": (png(DEEP, 16, 2), DEEP >> 8, ("16-bit",), 0, 16),
    "png 16, dark": (png(DEEP >> 4, 16, 2), DEEP >> 12, ("16-bit", "dark 16-bit"), 0, 0),
    "png 16, sBIT 12": (
        png(DEEP, 16, 2, chunk(b"sBIT", b"\x0c" * 3)), DEEP >> 8, ("16-bit",), 0, 0),
    "png 16 alpha": (png(WIDE, 16, 6), DEEP >> 8, ("16-bit", "alpha"), 0, 0),
    "png 16 alpha, 12": (png(WIDE >> 4, 16, 6), DEEP >> 8, ("16-bit", "alpha"), 0, 12),
    "png grey 16 alpha": (
        png(WIDE[..., 2:], 16, 4), three(DEEP[..., 2] >> 8), ("16-bit", "alpha", "grey"), 0, 0),
    "png grey 16 alpha, 12": (
        png(WIDE[..., 2:] >> 4, 16, 4), three(DEEP[..., 2] >> 8),
        ("16-bit", "grey", "alpha"), 0, 12),
    "png alpha": (saved(np.dstack([RGB, FOURTH])), RGB, ("alpha",), 0, 0),
    "png grey alpha": (
        saved(np.dstack([GREY, FOURTH])), three(GREY), ("alpha", "grey"), 0, 0),
    "png clear": (saved(np.dstack([RGB, FOURTH * 0])), RGB, ("alpha",), 0, 0),
    "png palette": (saved(PALETTE), PALETTE_RGB, ("palette",), 0, 0),
    "png palette alpha": (
        saved(PALETTE, transparency=b"\0\x80"), PALETTE_RGB, ("alpha", "palette"), 0, 0),
    "png a transparent colour": (
        png(RGB, 8, 2, chunk(b"tRNS", struct.pack(">3H", *RGB[0, 0]))), RGB, ("alpha",), 0, 0),
    "png a transparent grey": (
        png(GREY[..., None], 8, 0, chunk(b"tRNS", b"\0\7")), three(GREY), ("alpha", "grey"), 0, 0),
    "png gamma of sRGB": (
        png(RGB, 8, 2, chunk(b"gAMA", struct.pack(">I", 45455))), RGB, (), 0, 0),
    "png linear": (
        png(RGB, 8, 2, chunk(b"gAMA", struct.pack(">I", 100000))), RGB, ("profile",), 0, 0),
    "png sRGB": (saved(RGB, icc_profile=PROFILE), RGB, (), 0, 0),
    "png profile": (saved(RGB, icc_profile=OTHER_PROFILE), RGB, ("profile",), 0, 0),
    "png turned": (saved(RGB, exif=EXIF), RGB, ("orientation",), 0, 0),
    "png animated": (
        saved(TWO[0], save_all=True, append_images=TWO[1:]), RGB, ("frames",), 0, 0),
    "gif": (saved(PALETTE, "GIF"), PALETTE_RGB, ("palette",), 0, 0),
    "gif animated": (
        saved(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), PALETTE_RGB,
        ("frames", "palette"), 0, 0),
    "webp": (saved(RGB, "WEBP", lossless=True), RGB, (), 0, 0),
    "webp alpha": (
        saved(np.dstack([RGB, FOURTH]), "WEBP", lossless=True, exact=True), RGB, ("alpha",), 0, 0),
    "webp animated": (
        saved(TWO[0], "WEBP", lossless=True, save_all=True, append_images=TWO[1:]), RGB,
        ("frames",), 0, 0),
    "webp lossy": (saved(FLAT, "WEBP", quality=100), FLAT, (), 3, 0),
    "bmp 24": (saved(RGB, "BMP"), RGB, (), 0, 0),
    "bmp 8": (saved(GREY, "BMP"), three(GREY), ("grey",), 0, 0),
    "bmp palette": (saved(PALETTE, "BMP"), PALETTE_RGB, ("palette",), 0, 0),
    "bmp 1": (saved(BITS, "BMP"), three(BITS * 255), ("grey",), 0, 0),
    "bmp 32": (saved(np.dstack([RGB, FOURTH]), "BMP"), RGB, (), 0, 0),  # the fourth is undefined
    "pbm": (saved(BITS, "PPM"), three(BITS * 255), ("grey",), 0, 0),
    "pgm 255": (pnm(5, GREY, 255), three(GREY), ("grey",), 0, 0),
    "pgm 15": (pnm(5, GREY % 16, 15), three(GREY % 16 * 17), ("grey",), 0, 0),
    "pgm 65535": (pnm(5, DEEP[..., 0], 65535), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "pgm 65535, 12": (
        pnm(5, DEEP[..., 0] >> 4, 65535), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 12),
    "pgm 4095": (
        pnm(5, DEEP[..., 0] >> 4, 4095), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "pgm 4095, 10": (  # the file knows better
        pnm(5, DEEP[..., 0] >> 4, 4095), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 10),
    "pgm 999": (
        pnm(5, DEEP[..., 0] % 1000, 999), three(DEEP[..., 0].astype(int) % 1000 * 256 // 1000),
        ("16-bit", "grey"), 0, 0),
    "pgm ascii 4095": (
        pnm(2, DEEP[..., 0] >> 4, 4095), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "ppm ascii 255": (pnm(3, RGB, 255), RGB, (), 0, 0),
    "ppm 65535": (pnm(6, DEEP, 65535), DEEP >> 8, ("16-bit",), 0, 0),
    "ppm 65535, 12": (pnm(6, DEEP >> 4, 65535), DEEP >> 8, ("16-bit",), 0, 12),
    "ppm 4095": (pnm(6, DEEP >> 4, 4095), DEEP >> 8, ("16-bit",), 0, 0),
    "tiff": (tiff(RGB, photometric="rgb"), RGB, (), 0, 0),
    "tiff lzw": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB, (), 0, 0),
    "tiff deflate": (saved(RGB, "TIFF", compression="tiff_deflate"), RGB, (), 0, 0),
    "tiff packbits": (saved(RGB, "TIFF", compression="packbits"), RGB, (), 0, 0),
    "tiff jpeg": (saved(FLAT, "TIFF", compression="jpeg", quality=100), FLAT, (), 2, 0),
    "tiff planes": (
        tiff(planes(RGB), photometric="rgb", planarconfig="separate"), RGB, (), 0, 0),
    "tiff tiles": (
        tiff(np.tile(RGB, (2, 2, 1)), photometric="rgb", tile=(16, 16)), np.tile(RGB, (2, 2, 1)),
        (), 0, 0),
    "tiff grey": (tiff(GREY), three(GREY), ("grey",), 0, 0),
    "tiff grey, white is 0": (
        tiff(GREY, photometric="miniswhite"), three(255 - GREY), ("grey",), 0, 0),
    "tiff fax": (
        saved(BITS, "TIFF", compression="group4"), three(BITS * 255), ("grey",), 0, 0),
    "tiff palette": (saved(PALETTE, "TIFF"), PALETTE_RGB, ("palette",), 0, 0),
    "tiff cmyk": (
        tiff(FLAT_INK, photometric="separated"), ink(FLAT_INK), ("CMYK",), 1, 0),
    "tiff lab": (  # L = 100 %, a = b = 0 is white, L = 0 black
        tiff(LAB, photometric="cielab"), np.where(LAB[..., :1] > 0, 255, 0) + 0 * LAB,
        ("LAB",), 1, 0),
    "tiff alpha": (
        tiff(np.dstack([RGB, FOURTH]), photometric="rgb", extrasamples=["unassalpha"]), RGB,
        ("alpha",), 0, 0),
    "tiff premultiplied": (  # 50 / (100 / 255)
        tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"]),
        np.full((20, 30, 3), 127), ("alpha",), 1, 0),
    "tiff infrared": (tiff(np.dstack([RGB, FOURTH]), **PADDED), RGB, ("extra band",), 0, 0),
    "tiff infrared in planes": (
        tiff(planes(np.dstack([RGB, FOURTH])), compression="zlib", **SEPARATE), RGB,
        ("extra band",), 0, 0),
    "tiff five bands": (
        tiff(np.dstack([RGB, FOURTH, FOURTH]), photometric="rgb", extrasamples=[0, 0]), RGB,
        ("extra band",), 0, 0),
    "tiff alpha and infrared": (
        tiff(np.dstack([RGB, FOURTH, FOURTH]), photometric="rgb", extrasamples=[2, 0]), RGB,
        ("extra band", "alpha"), 0, 0),
    "tiff grey and another": (
        tiff(np.dstack([GREY, FOURTH]), photometric="minisblack", planarconfig="contig",
             extrasamples=[0]), three(GREY), ("extra band", "grey"), 0, 0),
    "tiff grey alpha": (
        tiff(np.dstack([GREY, FOURTH]), photometric="minisblack", planarconfig="contig",
             extrasamples=[2]), three(GREY), ("alpha", "grey"), 0, 0),
    "tiff grey 16": (tiff(DEEP[..., 0]), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "tiff grey 16, MM": (
        tiff(DEEP[..., 0], byteorder=">"), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 0),
    "tiff grey 16, white is 0": (
        tiff(DEEP[..., 0], photometric="miniswhite"), three(255 - (DEEP[..., 0] >> 8)),
        ("16-bit", "grey"), 0, 0),
    "tiff grey 16, white is 0, 12": (
        tiff(DEEP[..., 0] >> 4, photometric="miniswhite"), three(255 - (DEEP[..., 0] >> 8)),
        ("16-bit", "grey"), 0, 12),
    "tiff grey 12 in 16": (
        tiff(DEEP[..., 0] >> 4), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 12),
    "tiff grey 14 in 16": (
        tiff(DEEP[..., 0] >> 2), three(DEEP[..., 0] >> 8), ("16-bit", "grey"), 0, 14),
    "tiff 16": (tiff(DEEP, photometric="rgb"), DEEP >> 8, ("16-bit",), 0, 0),
    "tiff 16, 12": (tiff(DEEP >> 4, photometric="rgb"), DEEP >> 8, ("16-bit",), 0, 12),
    "tiff 16, MM, 12": (
        tiff(DEEP >> 4, photometric="rgb", byteorder=">"), DEEP >> 8, ("16-bit",), 0, 12),
    "tiff 16 deflate, 12": (
        tiff(DEEP >> 4, photometric="rgb", compression="zlib"), DEEP >> 8, ("16-bit",), 0, 12),
    "tiff 16 in planes": (
        tiff(planes(DEEP), photometric="rgb", planarconfig="separate"), DEEP >> 8,
        ("16-bit",), 0, 0),
    "tiff 16 infrared": (tiff(WIDE, **PADDED), DEEP >> 8, ("extra band", "16-bit"), 0, 0),
    "tiff 16 infrared, 12": (
        tiff(WIDE >> 4, **PADDED), DEEP >> 8, ("extra band", "16-bit"), 0, 12),
    "tiff 16 infrared in planes": (
        tiff(planes(WIDE), **SEPARATE), DEEP >> 8, ("extra band", "16-bit"), 0, 0),
    "tiff 16 alpha, 12": (
        tiff(WIDE >> 4, photometric="rgb", extrasamples=["unassalpha"]), DEEP >> 8,
        ("alpha", "16-bit"), 0, 12),
    "tiff pages": (
        saved(TWO[0], "TIFF", save_all=True, append_images=TWO[1:]), RGB, ("frames",), 0, 0),
    "tiff turned": (  # 6: its rows are to be columns from the right
        saved(RGB, "TIFF", tiffinfo={0x0112: 6}), np.rot90(RGB, -1), (), 0, 0),
    "jpeg": (saved(FLAT, "JPEG", quality=100), FLAT, (), 2, 0),
    "jpeg progressive": (saved(FLAT, "JPEG", quality=100, progressive=True), FLAT, (), 2, 0),
    "jpeg grey": (saved(FLAT[..., 0], "JPEG", quality=100), three(FLAT[..., 0]), ("grey",), 1, 0),
    "jpeg sRGB": (saved(FLAT, "JPEG", quality=100, icc_profile=PROFILE), FLAT, (), 2, 0),
    "jpeg profile": (
        saved(FLAT, "JPEG", quality=100, icc_profile=OTHER_PROFILE), FLAT, ("profile",), 2, 0),
    "jpeg turned": (saved(FLAT, "JPEG", quality=100, exif=EXIF), FLAT, ("orientation",), 2, 0),
    # Pillow stores inks inverted, and says so by Adobe's mark.
    "jpeg cmyk by Adobe": (PILLOW_CMYK, ink(FLAT_INK), ("CMYK",), 2, 0),
    "jpeg cmyk by the standard": (without_adobe(PILLOW_CMYK), ink(255 - FLAT_INK), ("CMYK",), 2, 0),
    "jpeg ycck": (
        simplejpeg.encode_jpeg(255 - FLAT_INK, 100, "CMYK"), ink(FLAT_INK), ("CMYK",), 2, 0),
    "mpo": (
        saved(Image.fromarray(FLAT), "MPO", save_all=True, quality=100,
              append_images=[Image.fromarray(255 - FLAT)]), FLAT, ("frames",), 2, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_decoded_values_of_every_kind(name):
    data, expected, kinds, tolerance, bits = TABLE[name]
    picture = Picture(data, "x", bits=bits)
    assert picture.size() == expected.shape[:2]
    array = picture.pixels()
    assert array.dtype == np.uint8 and array.shape == expected.shape
    assert np.abs(array.astype(float) - expected).max() <= tolerance
    assert set(picture.kinds) == set(kinds) <= set(KINDS)
    assert len(picture.kinds) == len(kinds)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_reported_for_jpeg_and_applied_for_tiff(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Picture(saved(RGB, "JPEG", exif=exif), "x")
    assert picture.pixels().shape == (20, 30, 3)
    assert picture.kinds == (("orientation",) if orientation > 1 else ())
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1),
              6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).swapaxes(0, 1),
              8: np.rot90(RGB)}  # fmt: skip
    data = saved(RGB, "TIFF", tiffinfo={0x0112: orientation})
    np.testing.assert_array_equal(decode(data, "x"), turned[orientation])


REFUSED = {
    "floating": (tiff(np.ones((4, 4), np.float32)), "floating numbers, whose range is not known"),
    "half": (tiff(np.ones((4, 4), np.float16)), "floating numbers, whose range is not known"),
    "signed 8": (tiff(np.full((4, 4), -3, np.int8)), "signed numbers, whose range is not known"),
    "signed 16": (tiff(np.full((4, 4), -3, np.int16)), "signed numbers, whose range is not known"),
    "32 bits": (tiff(np.ones((4, 4), np.uint32)), "of mode 'I', 8 or 16 bits a channel"),
    "bands": (
        tiff(np.ones((4, 4, 4), np.uint8), photometric="minisblack", planarconfig="contig"),
        "it has 4 bands, and the order of its bands is not declared"),
    "bands in planes": (
        tiff(np.ones((4, 9, 9), np.uint8), photometric="minisblack", planarconfig="separate"),
        "it has 4 bands, and the order of its bands is not declared"),
    "bands of 16": (
        tiff(np.ones((9, 9, 13), np.uint16), photometric="minisblack", planarconfig="contig"),
        "it has 13 bands, and the order of its bands is not declared"),
    "infrared in planes without code": (
        tiff(planes(np.dstack([RGB, FOURTH])), **SEPARATE), "each in a plane of its own; .*PIXEL"),
    "another kind": (
        tiff(np.ones((4, 4, 3), np.uint32), photometric="rgb"), "TIFF of 32/32/32 bits of kind 2"),
    "a level above": (
        pnm(5, np.full((4, 4), 5000), 4095), "a level of 5000, above the 4095 that the file"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
    "psd": (b"8BPS\0\1" + bytes(100), "cannot identify"),
    "tga": (saved(RGB, "TGA"), "cannot identify"),
    "ico": (saved(RGB, "ICO"), "cannot identify"),
    "pcx": (saved(RGB, "PCX"), "cannot identify"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_messages_for_refused_pictures(name):
    data, message = REFUSED[name]
    with pytest.raises(PictureError, match=f"^Picture 'odd.x' cannot be decoded: .*{message}"):
        decode(data, "odd.x")


@pytest.mark.parametrize(
    "data",
    [png(DEEP >> 3, 16, 2), tiff(DEEP >> 3, photometric="rgb"), tiff(DEEP[..., 0] >> 3),
     pnm(6, DEEP >> 3, 65535)],
)  # fmt: skip
def test_levels_above_the_bits_are_refused_and_never_wrap(data):
    with pytest.raises(PictureError, match="a level of 8191, above the 4095 of data.bits=12"):
        decode(data, "x", bits=12)
    assert decode(data, "x", bits=13).max() == 255


def test_packed_12_bit_tiff():
    """Two levels in three bytes, as the file declares."""
    levels = RNG.integers(0, 4096, (6, 8))
    pairs = levels.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8,
                       pairs[:, 1] & 255], axis=1).astype(np.uint8)  # fmt: skip
    full = tiff(np.zeros((6, 12), np.uint8))  # 12 bytes a row
    data = tagged(tagged(full, 258, 12), 256, 8)
    with Image.open(io.BytesIO(data)) as image:
        place = image.tag_v2[273][0]
    data = data[:place] + packed.tobytes() + data[place + packed.size :]
    picture = Picture(data, "x")
    np.testing.assert_array_equal(picture.pixels(), three(levels >> 4))
    assert set(picture.kinds) == {"16-bit", "grey"}


def test_separate_16_bit_planes_are_refused():
    data = tiff(planes(DEEP), photometric="rgb", planarconfig="separate")
    with pytest.raises(PictureError, match="colours in planes of their own; expected interleaved"):
        decode(data, "x", bits=12)
