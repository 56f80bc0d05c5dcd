"""Every kind of picture is decoded by its rule; damage raises an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jssl.data import PictureError, decode, photos
from jssl.data.decode import MAX_PIXELS, Picture, resize_boxes


def kind_of(data):
    picture = Picture(data, "x")
    return picture.pixels(), picture.kinds


def test_rgb_png_is_exact(encode, colours):
    array, kind = kind_of(encode(colours))
    assert kind == () and array.dtype == np.uint8
    np.testing.assert_array_equal(array, colours)


def test_jpeg_equals_pillow(encode):
    data = encode(photos.read(2), "JPEG", quality=90)
    array, kind = kind_of(data)
    assert kind == ()
    np.testing.assert_array_equal(array, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_grey_becomes_three_equal_channels(encode, format_name):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    array, kind = kind_of(encode(grey, format_name, quality=100))
    assert kind == ("grey",) and array.shape == (16, 16, 3)
    assert (array == array[..., :1]).all()
    assert np.abs(array[..., 0].astype(int) - np.asarray(grey)).max() <= (format_name == "JPEG")


def test_bilevel_becomes_black_and_white(encode):
    bits = np.eye(9, dtype=bool)
    array, kind = kind_of(encode(Image.fromarray(bits)))
    assert kind == ("grey",)
    np.testing.assert_array_equal(array[..., 1], 255 * bits)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_16_bits_keep_the_high_byte(encode, format_name):
    values = np.array([[0, 255, 256], [0x1234, 0xFFFF, 0x8000]], np.uint16)
    array, kind = kind_of(encode(Image.fromarray(values), format_name))
    assert kind == ("16-bit", "grey")
    for channel in range(3):
        np.testing.assert_array_equal(array[..., channel], [[0, 0, 1], [0x12, 0xFF, 0x80]])


def test_16_bit_colour_keeps_the_high_byte():
    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    values = np.array([[[0x1234, 0x00FF, 0xFFFF], [0x8000, 0x7FFF, 0x0100]]] * 2, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data, "x"), values >> 8)


def test_cmyk_is_converted(encode):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, :8, 0] = 255  # cyan: no red
    ink[8:, :, 3] = 255  # black
    array, kind = kind_of(encode(Image.fromarray(ink, mode="CMYK"), "JPEG", quality=100))
    assert kind == ("CMYK",)
    expected = np.full((16, 16, 3), 255)
    expected[:, :8, 0] = 0
    expected[8:] = 0
    assert np.abs(array.astype(int) - expected).max() <= 2


def test_palette_and_alpha(encode, colours):
    palette = Image.fromarray(colours).convert("P")
    array, kind = kind_of(encode(palette))
    assert kind == ("palette",)
    np.testing.assert_array_equal(array, np.asarray(palette.convert("RGB")))
    array, kind = kind_of(encode(palette, transparency=b"\0\x80"))
    assert kind == ("alpha", "palette")
    np.testing.assert_array_equal(array, np.asarray(palette.convert("RGB")))
    alpha = np.dstack([colours, np.arange(600, dtype=np.uint8).reshape(20, 30)])
    array, kind = kind_of(encode(Image.fromarray(alpha)))
    assert kind == ("alpha",)
    np.testing.assert_array_equal(array, colours)


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(encode, format_name):
    frames = [Image.new("RGB", (12, 10), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    array, kind = kind_of(data)
    assert kind[0] == "frames"
    np.testing.assert_array_equal(array, np.full((10, 12, 3), (255, 0, 0)))


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_by_pillow(encode, format_name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.kron(np.arange(0, 240, 16).reshape(3, 5, 1), np.ones((96, 96, 3)))
    data = encode(pixels.astype(np.uint8), format_name, exif=exif, quality=100)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = Picture(data, "x", upright=True)
    assert picture.size() == expected.shape[:2] == ((288, 480), (480, 288))[4 < orientation < 9]
    np.testing.assert_array_equal(picture.pixels(), expected)
    assert picture.kinds == ()
    height, width = picture.size()
    (crop,) = picture.crops([(0, 0, height, width / 2)], (10, 10), interpolation="bilinear")
    half = Image.fromarray(expected).resize(
        (10, 10), Image.Resampling.BILINEAR, box=(0, 0, width / 2, height)
    )
    assert np.abs(crop.astype(int) - half).max() <= 2  # a JPEG is decoded at a quarter


def test_exif_orientation_is_ignored_by_default_and_counted(encode, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for format_name in ("PNG", "JPEG"):
        data = encode(colours, format_name, exif=exif)
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
        assert decode(data, "x").shape == (20, 30, 3)
        assert kind_of(data)[1] == ("orientation",)


def test_damaged_exif_data_do_not_turn_a_picture(encode, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(colours, "JPEG", exif=exif)
    place = data.index(b"Exif\0\0")
    for cut in range(6, 26):
        damaged = data[: place + cut] + b"\xfe\xfe" + data[place + cut + 2 :]
        assert Picture(damaged, "x", upright=True).pixels().shape in ((20, 30, 3), (30, 20, 3))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3)])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_a_side_of_one_pixel_is_refused(encode, shape, format_name):
    message = rf"'dot.x' is {shape[0]} x {shape[1]} pixels .*expected at least 2 a side"
    with pytest.raises(PictureError, match=message):
        decode(encode(np.zeros(shape, np.uint8), format_name), "dot.x")


def test_a_decompression_bomb_is_refused_by_its_header():
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + body))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + body + check
    bomb += struct.pack(">I", 1_000_000) + b"IDAT"
    with pytest.raises(PictureError, match="'bomb.png' cannot be decoded: .*3600000000 pixels"):
        decode(bomb, "bomb.png")
    # A JPEG header is not read by Pillow, which would refuse: 10,000 x 10,000 in its frame.
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 10_000, 10_000, 3)
    parts = b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    scan = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    with pytest.raises(PictureError, match=f"expected at most {MAX_PIXELS:,} pixels"):
        decode(b"\xff\xd8" + frame + parts + scan + b"\xff\xd9", "bomb.jpg")


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_pictures_are_refused(encode, format_name, share):
    data = encode(photos.read(2)[:200, :200], format_name)
    assert decode(data, "whole").shape == (200, 200, 3)
    with pytest.raises(PictureError, match=r"^Picture 'holiday.x' cannot be decoded: .{5,}"):
        decode(data[: int(share * len(data))], "holiday.x")


def test_jpegs_without_their_last_bytes_are_refused(encode):
    data = encode(photos.read(2)[:200, :200], "JPEG")
    with pytest.raises(PictureError, match="'x' cannot be decoded: Premature end of JPEG file"):
        decode(data[:-2], "x")
    assert decode(data + b"bytes after the end", "x").shape == (200, 200, 3)


@pytest.mark.parametrize(("format_name", "least"), [("PNG", 40), ("GIF", 40), ("JPEG", 38)])
def test_damage_in_the_middle_is_detected(encode, format_name, least):
    """Noise over 200 bytes, 40 places: JPEG has no checksum, so not all damage breaks its code."""
    data = encode(photos.read(2), format_name)
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.integers(1000, len(data) - 1000, 40):
        noise = rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
        try:
            decode(data[:place] + noise + data[place + 200 :], "x")
        except PictureError:
            noticed += 1
    assert noticed >= least


def test_other_files_are_refused(encode, colours):
    for data in (b"", b"hello", b"\xff\xd8\xff", encode(colours)[:10]):
        with pytest.raises(PictureError, match="'notes.jpg' cannot be decoded.*Expected a whole"):
            decode(data, "notes.jpg")
    floating = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(PictureError, match="'f.tif' cannot be decoded: its samples are floating"):
        decode(floating, "f.tif")


def test_header_gives_the_size_without_decoding(encode, colours):
    for format_name in ("PNG", "JPEG", "GIF"):
        data = encode(np.tile(colours, (10, 10, 1)), format_name)
        assert Picture(data[:1500], "x").size() == (200, 300)


def test_resize_boxes_inside_and_over_the_edges():
    """Inside: as crop, then resize. Across: as resize, then crop. Worked with Pillow itself."""
    photo = photos.read(2)[:80, :120]
    box = (10, 20, 40, 60)
    inside, across = (
        resize_boxes(photo, [box], (20, 30), interpolation="bicubic", inside=value)[0]
        for value in (True, False)
    )
    image = Image.fromarray(photo)
    bicubic = Image.Resampling.BICUBIC
    expected = image.crop((20, 10, 80, 50)).resize((30, 20), bicubic)
    np.testing.assert_array_equal(inside, np.asarray(expected))
    expected = image.resize((60, 40), bicubic).crop((10, 5, 40, 25))
    np.testing.assert_array_equal(across, np.asarray(expected))
    assert (inside != across).any()
