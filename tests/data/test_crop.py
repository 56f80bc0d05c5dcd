"""Host crops: boxes against torchvision's recorded ones, pixels against a full decode."""

import io

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from scipy.ndimage import laplace

from jssl.data import CentreCrop, HostCrop, Picture, photos
from jssl.data.crop import tf_box, torchvision_box
from jssl.data.decode import resize_boxes

GOLDEN = np.load(ROOT / "tests" / "golden" / "host_crop_torchvision.npz")
SHAPES = [(375, 500), (500, 333), (32, 32), (60, 400)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_torchvision_boxes_have_its_distribution(height, width):
    """Quantiles of 10,000 boxes against 40,000 recorded: standard error below 0.6 % of the side."""
    rng = np.random.default_rng(0)
    boxes = np.array([torchvision_box(rng, height, width) for _ in range(10_000)])
    result = np.quantile(boxes, GOLDEN["quantiles"], axis=0)
    expected = GOLDEN[f"quantiles_{height}_{width}"]
    sides = np.array([height, width, height, width])
    assert np.abs(result - expected).max(axis=0) == pytest.approx(0, abs=0.02 * sides.max() + 1)
    np.testing.assert_allclose(
        boxes.mean(0), GOLDEN[f"mean_{height}_{width}"], atol=0.008 * sides.max()
    )
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all() and (boxes >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (33, 200)])
def test_torchvision_fallback_box(height, width):
    box = torchvision_box(np.random.default_rng(0), height, width, area=(1.0, 1.0))
    assert list(box) == GOLDEN[f"last_{height}_{width}"].tolist()


def test_tf_heights_are_uniform_and_small_boxes_are_redrawn():
    """Square picture of 100, ratio 1: heights uniform on 28..100, and below 32 refused."""
    rng = np.random.default_rng(0)
    boxes = np.array([tf_box(rng, 100, 100, ratio=(1.0, 1.0)) for _ in range(20_000)])
    heights, counts = np.unique(boxes[:, 2], return_counts=True)
    # round(sqrt(800)) = 28; 32**2 is the first above a tenth of 100**2.
    assert heights.tolist() == list(range(32, 101))
    assert (boxes[:, 2] == boxes[:, 3]).all()
    expected = 20_000 / 69
    # chi-square with 68 degrees of freedom: 119 is exceeded once in 10,000
    assert ((counts - expected) ** 2 / expected).sum() < 119
    # The corner is drawn from [0, size - side): the last place never occurs.
    room = 100 - boxes[boxes[:, 2] == 96, 2]
    assert set(boxes[boxes[:, 2] == 96, 0].tolist()) == set(range(int(room[0])))


def test_tf_ratios_are_uniform_not_log_uniform():
    rng = np.random.default_rng(0)
    boxes = np.array([tf_box(rng, 400, 400, area=(0.2, 0.3)) for _ in range(8_000)])
    ratios = boxes[:, 3] / boxes[:, 2]
    # uniform on [3/4, 4/3]: mean 1.0417, standard error 0.0019; log-uniform would give 1.0139
    assert ratios.mean() == pytest.approx(25 / 24, abs=0.007)
    areas = boxes[:, 2] * boxes[:, 3] / 400**2
    assert 0.2 <= areas.min() and areas.max() <= 0.3
    # With h uniform between sqrt(A0) and sqrt(A1), E[h^2] = (A0 + sqrt(A0 A1) + A1) / 3.
    assert areas.mean() == pytest.approx((0.2 + np.sqrt(0.06) + 0.3) / 3, abs=0.002)


def test_tf_box_falls_back_to_the_whole_picture():
    # ratio 3/4 to 4/3 of a strip 10 x 1000 covers at most 1.3 %: below the tenth asked for
    assert tf_box(np.random.default_rng(0), 10, 1000) == (0, 0, 10, 1000)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_equal_torchvisions_resized_crop(interpolation):
    crops = resize_boxes(photos.read(2), GOLDEN["boxes"], (40, 40), interpolation=interpolation)
    np.testing.assert_array_equal(crops, GOLDEN[f"crops_{interpolation}"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_centre_crop_equals_torchvisions_resize_and_center_crop(interpolation):
    photo = photos.read(2)
    crop = CentreCrop(56, resize=64, interpolation=interpolation)({"image": photo})["image"]
    assert np.abs(crop.astype(int) - GOLDEN[f"centre_{interpolation}"]).max() <= 1
    upright = np.ascontiguousarray(np.rot90(photo))
    crop = CentreCrop(40, resize=40, interpolation=interpolation)({"image": upright})["image"]
    assert np.abs(crop.astype(int) - GOLDEN[f"upright_{interpolation}"]).max() <= 1


def sharpness(crop):
    """Variance of the Laplacian of the grey levels."""
    return laplace(crop.mean(-1)).var()


@pytest.mark.parametrize("label", [2, 3, 5, 7, 8])
def test_reduced_decoding_keeps_the_quality_of_a_full_decode(encode, label):
    """Against Pillow's decode, crop and resize of the same 50 boxes; 2 is china, full of edges."""
    photo = Image.fromarray(photos.read(label)).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encode(photo, "JPEG", quality=90)
    full = Image.open(io.BytesIO(data))
    rng = np.random.default_rng(0)
    differences, ratios = [], []
    for _ in range(50):
        top, left, height, width = torchvision_box(rng, 1200, 1600)
        (crop,) = Picture(data, "x").crops(
            [(top, left, height, width)], (64, 64), interpolation="bilinear"
        )
        box = (left, top, left + width, top + height)
        expected = np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR, box=box))
        differences.append(np.abs(crop.astype(float) - expected).mean())
        ratios.append(sharpness(crop) / sharpness(expected))
    assert np.count_nonzero(differences) > 25  # decoded at a lower resolution
    assert max(differences) < 1 and np.mean(ratios) == pytest.approx(1, abs=0.02)
    assert min(ratios) > 0.95 and max(ratios) < 1.05


def test_crops_at_full_resolution_are_exact(encode):
    data = encode(photos.read(2), "JPEG", quality=90)
    full = np.asarray(Image.open(io.BytesIO(data)))
    boxes = [(10, 20, 150, 160), (100, 300, 130, 170)]
    crops = Picture(data, "x").crops(boxes, (96, 96), interpolation="bilinear")
    expected = resize_boxes(full, boxes, (96, 96), interpolation="bilinear")
    np.testing.assert_array_equal(crops, expected)


def test_one_small_box_requires_full_resolution(encode):
    photo = Image.fromarray(photos.read(2)).resize((1200, 800))
    data = encode(photo, "JPEG", quality=90)
    full = np.asarray(Image.open(io.BytesIO(data)))
    boxes = [(0, 0, 800, 1200), (300, 300, 100, 100)]
    crops = Picture(data, "x").crops(boxes, (96, 96), interpolation="bicubic")
    np.testing.assert_array_equal(
        crops, resize_boxes(full, boxes, (96, 96), interpolation="bicubic")
    )


@pytest.mark.parametrize("sampler", ["torchvision", "tf"])
def test_host_crop_is_the_same_for_encoded_and_decoded_pictures(encode, sampler):
    photo = photos.read(3)
    crop = HostCrop(48, views=3, sampler=sampler, area=(0.1, 0.5))
    example = {"label": np.int32(3), "index": np.int32(7)}
    encoded = crop({**example, "image": Picture(encode(photo), "x")}, np.random.default_rng(1))
    decoded = crop({**example, "image": photo}, np.random.default_rng(1))
    assert encoded["image"].shape == (3, 48, 48, 3) and encoded["image"].dtype == np.uint8
    assert encoded["label"] == 3 and encoded["index"] == 7
    np.testing.assert_array_equal(encoded["image"], decoded["image"])
    views = encoded["image"]
    assert (views[0] != views[1]).any() and (views[1] != views[2]).any()
    # Each sampler with the interpolation of its official pipeline.
    rng = np.random.default_rng(1)
    box_of = {"torchvision": torchvision_box, "tf": tf_box}[sampler]
    boxes = [box_of(rng, *photo.shape[:2], area=(0.1, 0.5)) for _ in range(3)]
    name = {"torchvision": "bilinear", "tf": "bicubic"}[sampler]
    np.testing.assert_array_equal(views, resize_boxes(photo, boxes, (48, 48), interpolation=name))
