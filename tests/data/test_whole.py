"""Partly unwritten files are errors; for raw data they are reported."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jssl.data import PictureError, decode, modes, photos, whole
from jssl.data.decode import Picture

PHOTO = photos.read(2)[:200, :200]
SHARES = (0.3, 0.5, 0.7, 0.9, 0.97)


def saved(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def first_frame_long(kind):
    image = Image.fromarray(PHOTO)
    return saved(image, kind, save_all=True, append_images=[image.rotate(90)])


CODED = {
    "jpeg": saved(PHOTO, "JPEG"),
    "jpeg 100": saved(PHOTO, "JPEG", quality=100, subsampling=0),
    "jpeg progressive": saved(PHOTO, "JPEG", progressive=True),
    "jpeg grey": saved(PHOTO[..., 0], "JPEG"),
    "jpeg cmyk": saved(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "jpeg cmyk 100": saved(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=100),
    "png": saved(np.tile(PHOTO, (2, 1, 1)), "PNG"),  # longer than what Pillow reads at once
    "png animated": first_frame_long("PNG"),
    "gif": saved(PHOTO, "GIF"),
    "webp": saved(PHOTO, "WEBP"),
    "webp lossless": saved(PHOTO, "WEBP", lossless=True),
    "webp alpha": saved(np.dstack([PHOTO, PHOTO[..., 0]]), "WEBP"),
    "webp animated": first_frame_long("WEBP"),
    **{
        f"tiff {kind}": saved(PHOTO, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    },
    **{
        f"tiff {kind}": saved(Image.fromarray(PHOTO).convert("1"), "TIFF", compression=kind)
        for kind in ("group3", "group4")
    },
}
PLAIN = {kind: saved(PHOTO, kind) for kind in ("BMP", "PPM", "TIFF")}


@pytest.mark.parametrize("name", CODED)
def test_unwritten_ends_are_errors(name):
    data = CODED[name]
    decode(data, "whole")
    for share in SHARES:
        n = int(share * len(data))
        for end in (b"", bytes(len(data) - n)):
            with pytest.raises(PictureError, match="^Picture 'x' cannot be decoded: .{5,}"):
                decode(data[:n] + end, "x")


@pytest.mark.parametrize("name", [n for n in CODED if not n.startswith(("webp", "tiff packbits"))])
def test_unwritten_blocks_are_errors(name):
    """4096 zeros inside; WebP and PackBits have no checksum and no forbidden code, and hide it."""
    data = CODED[name]
    for share in SHARES[:3]:
        n = int(share * len(data))
        hole = data[:n] + bytes(min(4096, len(data) - n - 64))
        with pytest.raises(PictureError, match="^Picture 'x' cannot be decoded: .{5,}"):
            decode(hole + data[len(hole) :], "x")


@pytest.mark.parametrize("name", PLAIN)
def test_raw_data_truncated_or_ending_in_zeros(name):
    data = PLAIN[name]
    n = len(data) // 2
    with pytest.raises(PictureError, match="^Picture 'x' cannot be decoded: .{5,}"):
        decode(data[:n], "x")
    if name == "TIFF":  # whose directory is at its end
        place = Image.open(io.BytesIO(data)).tag_v2[273][0]
        half = data[: place + 60000] + bytes(60000) + data[place + 120000 :]
    else:
        half = data[:n] + bytes(len(data) - n)
    picture = Picture(half, "x")
    picture.pixels()
    assert picture.kinds == ("black end",)
    whole = Picture(data, "x")
    whole.pixels()
    assert whole.kinds == ()


def test_runs_of_one_colour_are_not_damage():
    """Pictures with long runs of zeros in their code: of one colour, partly or entirely."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for level in (0, 255, 90):
        half, flat = noise.copy(), np.full((400, 400, 3), level, np.uint8)
        half[200:] = level
        for picture in (half, flat):
            for lossless, quality, method in ((False, 100, 0), (False, 10, 4), (True, 80, 0)):
                decode(
                    saved(picture, "WEBP", lossless=lossless, quality=quality, method=method), "x"
                )
            for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
                decode(saved(picture, "TIFF", compression=kind), "x")
            decode(saved(picture, "JPEG", optimize=True), "x")
            bits = Image.fromarray(picture).convert("1")
            for kind in ("group3", "group4"):
                decode(saved(bits, "TIFF", compression=kind), "x")


def strips_of(compression, content, count=1):
    """A TIFF of 64 x 64 grey pixels whose `count` strips all lie at one place, a byte apart."""
    more = 8 + len(content)  # where values that do not fit into the directory lie
    lists = struct.pack(f"<{2 * count}I", *range(8, 8 + count), *[len(content)] * count)
    where = [more, more + 4 * count] if count > 1 else [8, len(content)]
    tags = [(256, 1, 64), (257, 1, 64), (258, 1, 8), (259, 1, compression), (262, 1, 1),
            (273, count, where[0]), (278, 1, 64 // count), (279, count, where[1])]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, many, value) for tag, many, value in tags)
    directory = struct.pack("<H", len(tags)) + directory + bytes(4)
    return struct.pack("<4sI", b"II*\0", more + len(lists)) + content + lists + directory


def test_size_of_tiff_parts_is_bounded(monkeypatch):
    """Each would take much memory or time, of a picture of 64 x 64."""
    zeros = zlib.compress(bytes(2**20), 9)
    monkeypatch.setattr(whole, "MOST", 2**19)
    frame = saved(np.zeros((8, 8), np.uint8), "JPEG")
    place = frame.index(b"\xff\xc0") + 5
    huge = frame[:place] + b"\xff\x00\xff\x00" + frame[place + 4 :]
    for data, message in (
        (strips_of(8, zeros, 64), "its parts overlap"),
        (strips_of(8, zeros), "its parts hold more than"),
        (strips_of(7, huge), "its parts hold more than"),
    ):
        with pytest.raises(PictureError, match=message):
            decode(data, "x")


def test_plain_text_levels_are_bounded(monkeypatch):
    with pytest.raises(PictureError, match="a level of -7, below 0"):
        decode(b"P2 2 2 4095 1 2 -7 4", "x")
    with pytest.raises(PictureError, match="a level of 1000000000000000000000, above the 4095"):
        decode(b"P2 2 2 4095 1 2 1000000000000000000000 4", "x")
    with pytest.raises(PictureError, match="cut short: 3 values of 4"):
        decode(b"P2 2 2 4095 1 2 3", "x")
    monkeypatch.setattr(modes, "MAX_TEXT", 19)
    with pytest.raises(PictureError, match="text of 20 bytes; expected at most 19"):
        decode(b"P2 2 2 4095 1 2 3 4 ", "x")
