"""Blur against recorded TensorFlow, torchvision and PIL."""

import runpy
from pathlib import Path

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jssl import augment

TESTS = Path(__file__).parents[1]
TF = np.load(TESTS / "golden" / "augment_tf.npz")
TORCH = np.load(TESTS / "golden" / "augment_torch.npz")
naive = runpy.run_path(str(TESTS / "reference" / "naive_augment.py"))


@pytest.mark.parametrize("radius", [3, 11])
@pytest.mark.parametrize("i", range(3))
def test_blur_equals_the_recorded_depthwise_convolution(i, radius):
    image, sigma = jnp.asarray(TF["large"]), TF["sigmas"][i]
    result = augment.gaussian_blur(image, sigma, radius=radius)
    np.testing.assert_allclose(result, TF[f"blur_{i}_{radius}"], atol=2e-6)
    result = augment.gaussian_blur(image, sigma, radius=radius, padding="reflect")
    np.testing.assert_allclose(result, TORCH[f"blur_{i}_{radius}"], atol=2e-6)


@pytest.mark.parametrize("padding", ["zero", "symmetric", "reflect"])
def test_blocks_equal_the_unblocked_blur(padding):
    """64 and 96 are cut in two and three blocks, 37 in none."""
    for shape in [(64, 96, 3), (37, 64, 2)]:
        image = np.random.default_rng(0).random(shape).astype(np.float32)
        result = augment.gaussian_blur(jnp.asarray(image), 1.7, radius=8, padding=padding)
        expected = naive["blur"](image.astype(float), 1.7, 8, padding)
        np.testing.assert_allclose(result, expected, atol=2e-6)


def test_values_are_dm_pixs():
    image = jnp.asarray(TF["large"])
    theirs = dm_pix.gaussian_blur(image, 1.3, 22, padding="SAME")  # 22 makes 23 taps
    np.testing.assert_allclose(augment.gaussian_blur(image, 1.3, radius=11), theirs, atol=2e-6)


def test_difference_from_pil_is_bounded():
    """Largest and mean difference in levels of 255; PIL's three boxes, not ours, are the cause."""
    largest, mean = [], []
    for name, picture in [
        ("pil_blur", TORCH["picture"]),
        ("pil_blur_noise", (TORCH["large"] * 255).astype(np.uint8)),
    ]:
        for i, sigma in enumerate(TORCH["sigmas"]):
            result = augment.gaussian_blur(
                augment.to_float(jnp.asarray(picture)), sigma, radius=8, padding="symmetric"
            )
            away = np.abs(np.asarray(result) * 255 - TORCH[name][i])
            largest.append(away.max())
            mean.append(away.mean())
    assert max(largest[:3]) < 7.5 and max(mean[:3]) < 1.4  # a smooth picture
    assert max(largest[3:]) < 11 and max(mean[3:]) < 3.1  # white noise, the worst there is


def test_official_radius_and_weights():
    assert [augment.blur_radius(size) for size in (32, 64, 96, 128, 224)] == [1, 3, 4, 6, 11]
    line = jnp.zeros((47, 1, 1)).at[23].set(1.0)
    taps = [augment.gaussian_blur(line, s, radius=11, padding="symmetric") for s in (0.1, 2.0)]
    # along the width of one pixel nothing but that pixel is seen
    np.testing.assert_allclose([float(t[23, 0, 0]) for t in taps], [1.0, 0.1995], atol=5e-5)
    np.testing.assert_allclose([float(t.sum()) for t in taps], [1.0, 1.0], atol=1e-6)
    assert np.count_nonzero(taps[1]) == 23


def test_radius_zero_changes_nothing():
    image = jnp.asarray(TF["large"])
    np.testing.assert_array_equal(augment.gaussian_blur(image, 1.0, radius=0), image)


def test_each_image_has_its_own_sigma():
    line = jnp.zeros((41, 41, 1)).at[20, 20].set(1.0)
    keys = jax.random.split(jax.random.key(0), 2000)
    blur = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: augment.random_gaussian_blur(key, line, p=0.5, radius=11)[20, :, 0], keys
        )
    )
    result = np.asarray(blur(keys))
    blurred = result[:, 21] > 0
    # sigma of .1 leaves exp(-50) beside the centre: not 0 in float32
    assert stats.binomtest(int(blurred.sum()), 2000, 0.5).pvalue > 1e-3
    # neighbours at distance 1 and 0 have the ratio exp(-1 / 2 sigma^2)
    sigma = np.sqrt(-0.5 / np.log(result[blurred, 21] / result[blurred, 20]))
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
