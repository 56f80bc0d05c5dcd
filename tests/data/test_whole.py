"""Files of which a part was never written: an error; without a code at least a word."""

import io

import numpy as np
import pytest
from PIL import Image

from jssl.data import PictureError, decode, photos
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
def test_an_end_that_was_never_written_is_an_error(name):
    data = CODED[name]
    decode(data, "whole")
    for share in SHARES:
        n = int(share * len(data))
        for end in (b"", bytes(len(data) - n)):
            with pytest.raises(PictureError, match="^Picture 'x' cannot be decoded: .{5,}"):
                decode(data[:n] + end, "x")


@pytest.mark.parametrize("name", [n for n in CODED if not n.startswith(("webp", "tiff packbits"))])
def test_a_block_that_was_never_written_is_an_error(name):
    """4096 zeros inside; WebP and PackBits have no checksum and no forbidden code, and hide it."""
    data = CODED[name]
    for share in SHARES[:3]:
        n = int(share * len(data))
        hole = data[:n] + bytes(min(4096, len(data) - n - 64))
        with pytest.raises(PictureError, match="^Picture 'x' cannot be decoded: .{5,}"):
            decode(hole + data[len(hole) :], "x")


@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_an_error_if_short_and_said_if_it_ends_in_zeros(name):
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


def test_one_colour_in_a_row_is_no_damage():
    """Pictures whose codes are zeros for long: of one colour, in half or in whole."""
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
