"""Pictures of one channel and of any number, and levels of 16 bits with a declared range."""

import io

import numpy as np
import pytest
import tifffile
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data import PictureError, decode
from jssl.data.decode import RESAMPLING, Picture, resize_boxes
from jssl.errors import UserError

pytestmark = pytest.mark.quick
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
FIVE = RNG.integers(0, 256, (20, 30, 5), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
LIMITS = (1000, 41000)


def saved(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def kinds_of(content, **options):
    picture = Picture(content, "a", **options)
    picture.pixels()
    return picture.kinds


def scaled(levels, low, high):
    """The rule of `data.range` in plain numpy."""
    return np.rint(np.clip((levels.astype(float) - low) / (high - low), 0, 1) * 255)


def section(**updates):
    return ConfigDict({**data.DEFAULTS, **updates})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_one_channel_is_the_luma_of_pillow(kind):
    content = saved(RGB, kind)
    expected = np.asarray(Image.fromarray(decode(content, "a")).convert("L"))
    np.testing.assert_array_equal(decode(content, "a", channels=1)[..., 0], expected)
    assert "colour" in kinds_of(content, channels=1)
    grey = saved(RGB[..., 0], kind)
    levels = decode(grey, "a")[..., :1]
    np.testing.assert_array_equal(decode(grey, "a", channels=1), levels)
    assert not {"grey", "colour"} & set(kinds_of(grey, channels=1))


def test_four_channels_keep_a_straight_alpha():
    rgba = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for content in (saved(rgba), saved(rgba, "TIFF")):
        np.testing.assert_array_equal(decode(content, "a", channels=4), rgba)
        assert kinds_of(content, channels=4) == ()
        assert kinds_of(content) == ("alpha",)
    deep = np.concatenate([DEEP, DEEP[..., :1]], axis=-1)
    content = tiff(deep, photometric="rgb", extrasamples=["unassalpha"])
    found = decode(content, "a", channels=4, levels=LIMITS)
    np.testing.assert_array_equal(found, scaled(deep, *LIMITS))
    with pytest.raises(PictureError, match=r"'a' has 3 channels, expected 4 \(data.channels\)"):
        decode(saved(RGB), "a", channels=4)
    with pytest.raises(PictureError, match=r"--config.data.channels=3. More channels .* \.npy"):
        decode(saved(RGB, "JPEG"), "a", channels=5)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_npy_holds_any_channels(channels):
    array = FIVE[..., :channels]
    for stored in (array, np.asfortranarray(array), array.astype(">u2")):
        options = {"levels": (0, 255)} if stored.dtype.itemsize == 2 else {}
        picture = Picture(npy(stored), "a", channels=channels, upright=True, **options)
        assert picture.size() == (20, 30)
        np.testing.assert_array_equal(picture.pixels(), array)
    if channels == 1:
        np.testing.assert_array_equal(decode(npy(FIVE[..., 0]), "a", channels=1), FIVE[..., :1])


@pytest.mark.parametrize(
    ("content", "error", "expected"),
    [
        (npy(FIVE[..., :2]), PictureError, "'a' has 2 channels, expected 5"),
        (npy(np.moveaxis(FIVE, -1, 0)), PictureError, r"shape \[5,20,30\], .* np.moveaxis"),
        (npy(FIVE.astype(np.float32)), PictureError, "float32 .*; expected uint8 or uint16"),
        (npy(FIVE.astype(np.int16)), PictureError, "int16 .*; expected uint8 or uint16"),
        (npy(FIVE)[:-1], PictureError, r"promises 3,000 bytes of levels and holds 2,999"),
        (npy(FIVE) + b"x", PictureError, r"promises 3,000 bytes of levels and holds 3,001"),
        (npy(FIVE)[:40], PictureError, "'a' cannot be decoded"),
        (npy(FIVE[:1]), PictureError, "1 x 30 pixels"),
        (npy(FIVE[:0]), PictureError, r"\[0, 30, 5\]; expected uint8 or uint16"),
        (npy(np.array([{}] * 6).reshape(2, 3)), PictureError, "object .*; expected uint8"),
        (npy(FIVE.astype(np.uint16)), UserError, r"--config.data.range='\(LOW, HIGH\)'"),
    ],
)
def test_npy_that_is_no_picture_is_named(content, error, expected):
    with pytest.raises(error, match=expected):
        decode(content, "a", channels=5)


def test_npy_of_too_many_pixels_or_bytes_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((600, 600, 5), np.uint8))
    with pytest.raises(PictureError, match="max_megabytes"):
        Picture.read(path, max_megabytes=1, channels=5)
    with pytest.raises(PictureError, match="at most 89,478,485 pixels"):
        Picture(npy(np.zeros((10_000, 9_000), np.uint8)), "a", channels=1).size()


@pytest.mark.parametrize(
    "content",
    [
        tiff(DEEP, photometric="rgb"),
        npy(DEEP),
        b"P6 30 20 65535\n" + DEEP.astype(">u2").tobytes(),
    ],
    ids=["tiff", "npy", "ppm"],
)
def test_a_range_scales_colours_of_16_bits(content):
    expected = scaled(DEEP, *LIMITS)
    np.testing.assert_array_equal(decode(content, "a", levels=LIMITS), expected)
    assert kinds_of(content, levels=LIMITS) == ("range", "clipped")
    assert kinds_of(content, levels=(0, 65535)) == ("range",)
    inner = (int(DEEP.min()) + 1, 65535)
    assert kinds_of(content, levels=inner) == ("range", "clipped")


def test_a_range_scales_grey_of_16_bits_and_leaves_8_bits_alone():
    grey = DEEP[..., 0]
    for content in (saved(grey), tiff(grey)):
        found = decode(content, "a", channels=1, levels=LIMITS)
        np.testing.assert_array_equal(found[..., 0], scaled(grey, *LIMITS))
        np.testing.assert_array_equal(decode(content, "a", levels=LIMITS), np.repeat(found, 3, 2))
    white_is_0 = tiff(grey, photometric="miniswhite")
    found = decode(white_is_0, "a", channels=1, levels=LIMITS)[..., 0]
    np.testing.assert_array_equal(found, scaled(65535 - grey, *LIMITS))
    np.testing.assert_array_equal(decode(saved(RGB), "a", levels=LIMITS), RGB)
    assert kinds_of(saved(RGB), levels=LIMITS) == ()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_each_channel_is_resized_alone(channels, interpolation):
    array, box = FIVE[..., :channels], (2.5, 3.0, 15.0, 21.25)
    found = resize_boxes(array, [box], (7, 9), interpolation=interpolation, inside=False)[0]
    for c in range(channels):
        top, left, height, width = box
        expected = Image.fromarray(np.ascontiguousarray(array[..., c])).resize(
            (9, 7), RESAMPLING[interpolation], box=(left, top, left + width, top + height)
        )
        np.testing.assert_array_equal(found[..., c], expected)


def test_crops_of_the_host_have_the_channels():
    picture = Picture(npy(FIVE), "a", channels=5)
    crop = data.HostCrop(8, views=2)({"image": picture}, np.random.default_rng(0))["image"]
    again = data.HostCrop(8, views=2)({"image": FIVE}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(crop, again)
    assert crop.shape == (2, 8, 8, 5)
    assert data.CentreCrop(8, 9)({"image": FIVE[..., :1]})["image"].shape == (8, 8, 1)


def test_a_folder_of_arrays_is_one_of_pictures(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", FIVE)
        np.save(tmp_path / name / "2.NPY.npy", FIVE)
    config = section(name="folder", data_dir=str(tmp_path), channels=5)
    source = data.make_source(config, "train")
    assert (len(source), source.class_names) == (4, ("cat", "dog"))
    np.testing.assert_array_equal(source[3]["image"], FIVE)
    assert len(data.find_pictures([tmp_path])) == len(data.find_pictures([f"{tmp_path}/*/*"])) == 4
    # Beside pictures they are something else, such as masks.
    Image.fromarray(RGB).save(tmp_path / "cat" / "1.png")
    Image.fromarray(RGB).save(tmp_path / "dog" / "1.png")
    config.channels = 3
    source = data.make_source(config, "train")
    assert len(source) == 2
    assert "4 x files ending in .npy" in source.description()


def arrays(folder, images):
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", image=images, label=np.arange(len(images)) % 2)
    return section(name="arrays", data_dir=str(folder))


def test_arrays_have_any_channels(tmp_path):
    images = RNG.integers(0, 256, (4, 8, 8, 5), dtype=np.uint8)
    config = arrays(tmp_path, images)
    with pytest.raises(UserError, match="has 5 channels, expected 3 .*--config.data.channels=5"):
        data.make_source(config, "train")
    config.channels = 5
    source = data.make_source(config, "train")
    assert source.image_shape == (8, 8, 5)
    np.testing.assert_array_equal(source[2]["image"], images[2])


def test_arrays_of_16_bits_report_what_was_clipped(tmp_path):
    images = RNG.integers(0, 1000, (4, 8, 8, 2), dtype=np.uint16)
    images[1, 0, 0, 0] = 5000
    config = arrays(tmp_path, images)
    config.channels = 2
    with pytest.raises(UserError, match="uint16.*--config.data.range="):
        data.make_source(config, "train")
    config.range = (0, 1000)
    source = data.make_source(config, "train")
    batches = data.eval_batches(source, batch_size=2)
    found = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(found, scaled(images, 0, 1000))
    np.testing.assert_array_equal(source[1]["image"], found[1])
    report = batches.problems.report()
    assert {kind: entry["count"] for kind, entry in report.items()} == {"range": 4, "clipped": 1}


def test_objects_have_any_channels():
    items = [FIVE, FIVE.astype(np.uint16) * 100, npy(FIVE)]
    source = data.PythonSource(items, channels=5, levels=(0, 25500))
    for i in range(3):
        np.testing.assert_array_equal(source[i]["image"], FIVE)
    grey = data.PythonSource([RGB[..., 0], Image.fromarray(RGB), saved(RGB)], channels=1)
    luma = np.asarray(Image.fromarray(RGB).convert("L"))[..., None]
    for i, expected in enumerate((RGB[..., :1], luma, luma)):
        np.testing.assert_array_equal(grey[i]["image"], expected)
    with_alpha = Image.fromarray(np.concatenate([RGB, RGB[..., :1]], axis=-1))
    four = data.PythonSource([with_alpha], channels=4)
    np.testing.assert_array_equal(four[0]["image"], with_alpha)
    for item, channels, expected in (
        (FIVE, 3, r"\[20,30,5\]: expected uint8 \[H,W,3\] or \[H,W\]; .*data.channels=5"),
        (RGB[..., 0], 5, r"\[20,30\]: expected uint8 \[H,W,5\]; return one picture"),
        (np.moveaxis(FIVE, -1, 0), 5, r"np.moveaxis\(x, 0, -1\)"),
        (FIVE.astype(np.uint16), 5, r"--config.data.range="),
        (Image.fromarray(RGB), 5, "has 3 channels, expected 5"),
    ):
        with pytest.raises(UserError, match=expected):
            data.PythonSource([item], channels=channels)[0]


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ({"channels": 5}, "'photos' has pictures of three channels, found data.channels=5"),
        ({"channels": 0}, "data.channels=0: expected 3"),
        ({"range": (0, 4095), "bits": 12}, "data.range=.* and data.bits=12: .*expected one"),
        ({"range": (9, 9)}, r"data.range=\(9, 9\): expected two levels"),
        ({"range": (9,)}, r"--config.data.range='\(0, 4095\)'"),
        ({"range": (0, 70000)}, "two levels of 16 bits"),
    ],
)
def test_keys_that_do_not_fit_are_refused(updates, expected):
    with pytest.raises(UserError, match=expected):
        data.make_source(section(**updates), "train")


def test_embedded_sets_can_be_grey():
    grey, rgb = (data.make_source(section(name="digits", channels=c), "test") for c in (1, 3))
    assert grey.image_shape == (32, 32, 1)
    np.testing.assert_array_equal(grey.images, rgb.images[..., :1])
    assert grey.fingerprint() != rgb.fingerprint()


def test_mean_and_std_are_those_of_numpy():
    images = RNG.integers(0, 256, (6, 4, 5, 2), dtype=np.uint8)
    source = data.ArraySource("mine", images, [0] * 6, num_classes=0)
    mean, std = data.mean_and_std(source)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-9)
    rows = data.evenly_spaced(6, 2)
    part = (images[rows] / 255).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(data.mean_and_std(source, examples=2)[0], part, rtol=1e-12)
    with pytest.raises(UserError, match="examples=0"):
        data.mean_and_std(source, examples=0)
