"""Resizing against recorded TensorFlow, torch and PIL; boxes by distribution."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jssl import augment
from jssl.augment import _geometry

TESTS = Path(__file__).parents[1]
TF = np.load(TESTS / "golden" / "augment_tf.npz")
TORCH = np.load(TESTS / "golden" / "augment_torch.npz")
naive = runpy.run_path(str(TESTS / "reference" / "naive_augment.py"))
BOX_CASES = {"square": (32, 32, 0.08), "wide": (40, 64, 0.08), "strip": (16, 96, 0.2)}
RATIO = (3 / 4, 4 / 3)


@functools.cache
def crops(size, method, antialias):
    """The recorded crops of the recorded picture, resized by us."""
    boxes = augment.Box(*jnp.asarray(TF["crops"].T, jnp.int32))
    resize = functools.partial(augment.crop_resize, size=size, method=method, antialias=antialias)
    picture = jnp.asarray(TF["picture"])
    return np.asarray(jax.jit(lambda b: jax.lax.map(lambda box: resize(picture, box), b))(boxes))


@pytest.mark.parametrize("size", [8, 16, 48])
@pytest.mark.parametrize(
    ("golden", "name", "method", "antialias", "tolerance"),
    [
        # TensorFlow looks bicubic weights up in a table of 1024 steps
        (TF, "resize_{}_{}_bicubic_False", "bicubic", False, 1e-3),
        (TF, "resize_{}_{}_tf1", "bicubic_tf1", False, 1e-3),
        (TF, "resize_{}_{}_bicubic_True", "bicubic", True, 1e-5),
        (TF, "resize_{}_{}_bilinear_False", "bilinear", False, 1e-5),
        (TF, "resize_{}_{}_bilinear_True", "bilinear", True, 1e-5),
        (TORCH, "resize_{}_{}_bicubic_False", "bicubic_torch", False, 1e-5),
        (TORCH, "resize_{}_{}_bicubic_True", "bicubic", True, 1e-5),
        (TORCH, "resize_{}_{}_bilinear_False", "bilinear", False, 1e-5),
        (TORCH, "resize_{}_{}_bilinear_True", "bilinear", True, 1e-5),
        (TORCH, "pil_resize_{}_{}_bicubic", "bicubic", True, 1e-5),
        (TORCH, "pil_resize_{}_{}_bilinear", "bilinear", True, 1e-5),
    ],
)
def test_resized_crops_equal_the_recorded_ones(size, golden, name, method, antialias, tolerance):
    for i, result in enumerate(crops(size, method, antialias)):
        np.testing.assert_allclose(result, golden[name.format(i, size)], atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "size", "method", "antialias"),
    [
        ((90, 101, 2), 64, "bicubic", False),
        ((90, 101, 2), 64, "bilinear", True),
        ((160, 35, 1), 32, "bicubic", True),
        ((20, 24, 3), 37, "bicubic_torch", False),  # 37 has no divisor to cut blocks with
    ],
)
def test_bands_and_rows_equal_the_naive_sum(shape, size, method, antialias):
    """The code for accelerators (bands) and for the CPU (rows) against the loop."""
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    H, W, C = shape
    for box in [(0, 0, H, W), (3, 2, H - 7, W - 5), (H - 9, W - 6, 9, 6)]:
        top, _, height, _ = box
        index, weight = _geometry._taps(
            jnp.int32(top), jnp.int32(height), False, n=H, size=size, method=method,
            antialias=antialias,
        )  # fmt: skip
        rows = image.reshape(H, W * C)
        expected = naive["resize_columns"](
            rows[top : top + height].astype(float), size, method=method, antialias=antialias
        )
        for product in (_geometry._multiply_rows, _geometry._sum_rows):
            result = jax.jit(product)(jnp.asarray(rows), index, weight)
            np.testing.assert_allclose(result, expected, atol=5e-6)
        result = augment.crop_resize(
            jnp.asarray(image), augment.Box(*jnp.array(box)), size=size, method=method,
            antialias=antialias, flip=jnp.bool(True),
        )  # fmt: skip
        expected = naive["crop_resize"](
            image.astype(float), box, size, flip=True, method=method, antialias=antialias
        )
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_uint8_is_resized_as_float():
    image = jnp.asarray(TF["picture"])
    result = augment.resize(image, size=20)
    np.testing.assert_allclose(result, augment.resize(augment.to_float(image), size=20), atol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_use_matrix_products(platform):
    def crop(image, box):
        return augment.crop_resize(image, box, size=64)

    image, box = jnp.zeros((90, 101, 3), jnp.uint8), augment.Box(*jnp.array([3, 4, 50, 60]))
    text = jax.jit(crop).trace(image, box).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == 4  # two bands along each axis
    assert "stablehlo.gather" not in text
    assert "HIGHEST" in text  # no bfloat16 or tf32 in the products
    text = jax.jit(crop).trace(image, box).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count('"stablehlo.gather"(') == 4  # four taps


@functools.cache
def boxes(sampler, case, count=8000):
    height, width, smallest = BOX_CASES[case]
    sample = functools.partial(
        augment.sample_box, height=height, width=width, sampler=sampler, scale=(smallest, 1.0)
    )
    keys = jax.random.split(jax.random.key(11), count)
    return np.stack(jax.jit(jax.vmap(sample))(keys), axis=1)


def same_distribution(result, expected):
    """Kolmogorov-Smirnov on every marginal that matters; seeds are fixed, so it cannot flicker."""
    marginals = {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3],
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "corner": lambda b: b[:, 0] * b[:, 1],
        "bottom": lambda b: b[:, 0] + b[:, 2],
        "right": lambda b: b[:, 1] + b[:, 3],
    }
    for name, f in marginals.items():
        pair = f(result.astype(float)), f(expected.astype(float))
        p = stats.ks_2samp(*pair, method="asymp").pvalue
        assert p > 1e-3, f"{name}: p = {p}"


@pytest.mark.parametrize("case", BOX_CASES)
@pytest.mark.parametrize("sampler", ["tf", "torchvision"])
def test_boxes_have_the_recorded_distribution(sampler, case):
    golden = TF if sampler == "tf" else TORCH
    same_distribution(boxes(sampler, case), golden[f"boxes_{case}"])


@pytest.mark.parametrize("case", BOX_CASES)
@pytest.mark.parametrize("sampler", ["tf", "torchvision", "byol"])
def test_boxes_have_the_distribution_of_the_official_loop(sampler, case):
    height, width, smallest = BOX_CASES[case]
    rng = np.random.default_rng(1)
    draw = naive[f"{sampler}_box"]
    expected = [draw(rng, height, width, (smallest, 1.0), RATIO) for _ in range(4000)]
    same_distribution(boxes(sampler, case), np.array(expected))


def test_distributions_of_the_samplers_differ():
    tf, torch = boxes("tf", "wide"), boxes("torchvision", "wide")
    with pytest.raises(AssertionError, match=r"p = "):
        same_distribution(tf, torch)
    with pytest.raises(AssertionError, match=r"p = "):
        same_distribution(boxes("byol", "strip"), boxes("torchvision", "strip"))


@pytest.mark.parametrize("case", BOX_CASES)
@pytest.mark.parametrize("sampler", ["tf", "torchvision", "byol"])
def test_boxes_lie_within_the_image_and_the_limits(sampler, case):
    H, W, smallest = BOX_CASES[case]
    top, left, height, width = boxes(sampler, case).T
    assert top.min() >= 0 and left.min() >= 0 and height.min() > 0 and width.min() > 0
    assert (top + height).max() <= H and (left + width).max() <= W
    if sampler == "tf":
        full = (height == H) & (width == W)
        least = max(smallest, 0.1) * H * W  # min_object_covered = .1 outweighs an area of .08
        assert (height * width)[~full].min() >= least
        # the official code never draws the last offset
        assert (left + width)[width < W].max() == W - 1
    else:
        assert (left + width)[width < W].max() == W


def test_fallback_boxes():
    """A strip 40 times as wide as high: no box of at least 80 % with an aspect near 1."""
    sample = functools.partial(augment.sample_box, height=10, width=400, scale=(0.8, 1.0))
    result = {
        s: tuple(int(v) for v in sample(jax.random.key(0), sampler=s))
        for s in ("tf", "torchvision")
    }
    assert result == {"tf": (0, 0, 10, 400), "torchvision": (0, 193, 10, 13)}
    tall = augment.sample_box(
        jax.random.key(0), height=400, width=10, scale=(0.8, 1.0), sampler="torchvision"
    )
    assert tuple(int(v) for v in tall) == (193, 0, 13, 10)


def test_center_crop_equals_the_official_one():
    image = np.random.default_rng(2).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    # round(.875 * 50) = 44; offsets (60 - 44 + 1) // 2 = 8 and (50 - 44 + 1) // 2 = 3
    expected = naive["crop_resize"](image / 255.0, (8, 3, 44, 44), 30)
    result = augment.center_crop(jnp.asarray(image), size=30)
    np.testing.assert_allclose(result, np.clip(expected, 0, 1), atol=1e-5)


def test_random_resized_crop_uses_its_box():
    """A picture of its own coordinates shows the origin of a crop."""
    y, x = np.mgrid[0:40, 0:64].astype(np.float32)
    image = jnp.asarray(np.stack([y, x], axis=-1))
    key = jax.random.key(3)
    result = augment.random_resized_crop(key, image, size=16, method="bilinear", antialias=True)
    box = augment.sample_box(key, height=40, width=64)
    centre = np.asarray(result).mean((0, 1))
    np.testing.assert_allclose(centre[0], box.top + (box.height - 1) / 2, atol=1e-3)
    np.testing.assert_allclose(centre[1], box.left + (box.width - 1) / 2, atol=1e-3)


def test_flip_mirrors_half_of_the_time():
    image = jnp.asarray(TF["colors"])
    keys = jax.random.split(jax.random.key(4), 4000)
    result = jax.jit(jax.vmap(lambda key: augment.random_flip(key, image)))(keys)
    mirrored = np.all(np.asarray(result) == TF["colors"][:, ::-1], axis=(1, 2, 3))
    straight = np.all(np.asarray(result) == TF["colors"], axis=(1, 2, 3))
    assert (mirrored ^ straight).all()
    assert stats.binomtest(int(mirrored.sum()), 4000, 0.5).pvalue > 1e-3
