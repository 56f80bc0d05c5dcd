"""Modalities: scikit-image's colours, the official constants, one box for all arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color

from jssl import augment
from jssl.augment import modalities
from jssl.errors import UserError

# The bilinear crop of MoCo and CMC, without antialiasing, so that it is linear in the pixels.
CROP = {"sampler": "torchvision", "resize": "bilinear", "scale": (0.2, 1.0)}


def gamut():
    """33 x 33 x 33 colours of sRGB, corners among them."""
    levels = np.linspace(0, 1, 33)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(33, -1, 3)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


# Colours ----------------------------------------------------------------------------------------


def test_lab_and_ycbcr_equal_scikit_image(picture):
    for image in (picture / 255, gamut()):
        lab, ycbcr = augment.rgb_to_lab(jnp.asarray(image)), augment.rgb_to_ycbcr(image)
        np.testing.assert_allclose(lab, skimage.color.rgb2lab(image), atol=2e-4)
        np.testing.assert_allclose(ycbcr, skimage.color.rgb2ycbcr(image), atol=1e-4)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 0, 0), (53.241, 80.092, 67.203)),
        ((0, 1, 0), (87.735, -86.183, 83.180)),
        ((0, 0, 1), (32.296, 79.186, -107.857)),
        ((1, 1, 1), (100, 0, 0)),
    ],
)
def test_published_lab_values(rgb, lab):
    result = augment.rgb_to_lab(jnp.array(rgb, jnp.float32))
    np.testing.assert_allclose(result, lab, atol=5e-3)


def test_the_constants_map_the_gamut_of_srgb_to_minus_one_to_one():
    x = augment.split_views({"image": jnp.asarray(gamut()[None], jnp.float32)}, ["l", "ab"])
    for channel in (x["l"], x["ab"][..., 0], x["ab"][..., 1]):
        assert abs(float(channel.min()) + 1) < 1e-4 and abs(float(channel.max()) - 1) < 1e-4


def test_views_of_a_picture_have_the_official_constants(picture):
    x = augment.split_views({"image": picture}, ["l", "ab", "y", "cbcr"])
    lab = skimage.color.rgb2lab(picture)
    np.testing.assert_allclose(x["l"], (lab[..., :1] - 50) / 50, atol=1e-5)
    mean, half = np.array([6.025, -6.6895]), np.array([92.208, 101.1675])
    np.testing.assert_allclose(x["ab"], (lab[..., 1:] - mean) / half, atol=1e-5)
    ycbcr = skimage.color.rgb2ycbcr(picture)
    mean, std = np.array([116.151, 121.080, 132.342]), np.array([109.500, 111.855, 111.964])
    expected = (ycbcr - mean) / std
    np.testing.assert_allclose(x["y"], expected[..., :1], atol=1e-5)
    np.testing.assert_allclose(x["cbcr"], expected[..., 1:], atol=1e-5)
    assert list(x) == ["l", "ab", "y", "cbcr"]


def test_uint8_and_float_pictures_give_the_same_views(picture):
    a = augment.split_views({"image": picture}, ["l", "ab"])
    b = augment.split_views({"image": np.float32(picture) / 255}, ["l", "ab"])
    for view in a:
        np.testing.assert_allclose(a[view], b[view], atol=1e-6)


def test_other_views_by_hand():
    arrays = {
        "image": jnp.full((1, 1, 2, 3), 255, jnp.uint8),
        "later": jnp.full((1, 1, 2, 3), 51, jnp.uint8),
        "depth": jnp.array([[[[0.0], [10.0]]]]),
        "normals": jnp.array([[[[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]]]),
        "segmentation": jnp.array([[[2, 255]]]),
        "flow": jnp.array([[[[10.0, -50.0], [0.0, 20.0]]]]),
    }
    names = ["frame", "later", "depth", "normals", "segmentation", "flow"]
    x = augment.split_views(arrays, names, segments=3)
    np.testing.assert_allclose(x["frame"], np.ones((1, 1, 2, 3)))
    np.testing.assert_allclose(x["later"], np.full((1, 1, 2, 3), 0.2), rtol=1e-6)
    np.testing.assert_allclose(x["depth"].ravel(), [-1, 1])
    np.testing.assert_allclose(x["normals"], arrays["normals"])
    np.testing.assert_allclose(x["segmentation"][0, 0], [[0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(x["flow"][0, 0], [[0.5, -1.0], [0.0, 1.0]])
    x = augment.split_views(arrays, ["frame"], normalize="imagenet")
    np.testing.assert_allclose(x["frame"][0, 0, 0], [2.2489083, 2.4285715, 2.64], rtol=1e-6)


# One box for all --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cropped():
    """Arrays of their own coordinates, so that a crop shows its box."""
    B, H, W = 12, 24, 32
    y, x = np.mgrid[:H, :W].astype(np.float32)
    places = np.stack([x / W, y / H, np.zeros_like(x)], -1)
    arrays = {
        "image": places,
        "later": places[..., ::-1],
        "depth": x[..., None] / W,
        "normals": np.stack([np.full_like(x, 0.6), np.full_like(x, 0.8), 0 * x], -1),
        "segmentation": (y * W + x).astype(np.int32),
        "flow": np.stack([np.ones_like(x), 2 * np.ones_like(x)] * 3, -1),
    }
    arrays = {k: np.repeat(v[None], B, 0) for k, v in arrays.items()}
    fn = augment.make_views("crop_flip", size=16, **CROP)
    cut = jax.jit(lambda key, arrays: augment.batch_modalities(fn, key, arrays, jnp.int32(0)))
    return arrays, cut(jax.random.key(1), arrays), fn


def test_all_arrays_have_the_same_box_and_flip(cropped):
    _, out, fn = cropped
    x, y = np.asarray(out["image"][..., 0]), np.asarray(out["image"][..., 1])
    np.testing.assert_allclose(out["later"][..., 2], x, atol=1e-6)
    np.testing.assert_allclose(out["depth"][..., 0], x, atol=1e-5)
    labels = np.asarray(out["segmentation"])
    # The nearest pixel is at most half an input pixel away.
    assert np.abs(labels % 32 / 32 - x).max() <= 0.51 / 32
    assert np.abs(labels // 32 / 24 - y).max() <= 0.51 / 24
    mirrored = x[:, 0, 0] > x[:, 0, -1]
    assert 0 < mirrored.sum() < len(mirrored)
    width = np.abs(x[:, 0, -1] - x[:, 0, 0])
    assert width.max() - width.min() > 0.1  # the boxes differ
    assert out["segmentation"].dtype == jnp.int32 and out["depth"].dtype == jnp.float32


def test_normals_and_flow_are_transformed(cropped):
    _, out, fn = cropped
    x, y = np.asarray(out["image"][..., 0]) * 32, np.asarray(out["image"][..., 1]) * 24
    sign = np.where(x[:, 0, 0] > x[:, 0, -1], -1.0, 1.0)
    np.testing.assert_allclose(out["normals"][:, 5, 5, 0], 0.6 * sign, atol=1e-5)
    np.testing.assert_allclose(out["normals"][:, 5, 5, 1], 0.8, atol=1e-5)
    # Input pixels to a pixel of the view, measured inside, where nothing is clamped.
    across, down = (x[:, 8, 9] - x[:, 8, 6]) / 3, (y[:, 9, 8] - y[:, 6, 8]) / 3
    for k in range(3):
        np.testing.assert_allclose(out["flow"][:, 8, 8, 2 * k], 1 / across, rtol=1e-3)
        np.testing.assert_allclose(out["flow"][:, 8, 8, 2 * k + 1], 2 / down, rtol=1e-3)
    assert np.std(np.abs(across)) > 0.05


def test_pictures_equal_batch_views_for_any_split(cropped):
    arrays, out, fn = cropped
    key, image = jax.random.key(1), jnp.asarray(arrays["image"])
    single = jax.jit(lambda x: augment.batch_views(fn, key, x, jnp.int32(0)))(image)[0]
    np.testing.assert_allclose(out["image"], single, atol=1e-6)
    half = {k: v[6:] for k, v in arrays.items()}
    tail = jax.jit(lambda x: augment.batch_modalities(fn, key, x, jnp.int32(6)))(half)
    for name in out:
        np.testing.assert_allclose(tail[name], out[name][6:], atol=1e-5)


# Misuse -----------------------------------------------------------------------------------------


def test_missing_arrays_are_named_with_their_format():
    with pytest.raises(UserError) as error:
        augment.split_views({"image": jnp.zeros((1, 2, 2, 3))}, ["l", "depth", "normals"])
    for words in ("depth", "normals", "found image", "metres", "float32 [B,H,W,1]", "unit vectors"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        (["l", "dept"], {}, "'dept': did you mean 'depth'"),
        (["l", "l"], {}, "named twice"),
        (["l", "segmentation"], {}, "2 labels or more, found segments=0"),
        (["l", "flow"], {}, "1 frame or more, found flow_frames=0"),
    ],
)
def test_invalid_views_are_refused(views, options, message):
    with pytest.raises(UserError, match=message):
        modalities.fields(views, segments=0, flow_frames=0, **options)


def test_arrays_of_another_size_are_refused():
    fn = augment.make_views("crop_flip", size=4)
    arrays = {"image": jnp.zeros((1, 8, 8, 3)), "depth": jnp.zeros((1, 8, 6, 1))}
    with pytest.raises(ValueError, match=r"'depth' \(1, 8, 6, 1\)"):
        augment.batch_modalities(fn, jax.random.key(0), arrays, jnp.int32(0))
