"""RandAugment: every operation against TensorFlow's kernels and against PIL; its switches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, tiles
from PIL import Image, ImageEnhance, ImageOps

from jssl.augment import make_views, rand_augment
from jssl.augment._operations import NOTHING, OPERATIONS, cut_square, operation
from jssl.augment._policy import Policy, apply_policy, tf_arguments
from jssl.errors import UserError

GOLDEN = np.load(ROOT / "tests" / "golden" / "policy_tf.npz")
PICTURE = GOLDEN["picture"]  # [37,29,3]
# What of floating point sits on the edge between two levels: at most this share of the pixels
# differs, by one level.
ROUNDED = {"autocontrast": 0.02, "contrast": 0.01, "brightness": 0.01, "color": 0.01,
           "sharpness": 0.03}  # fmt: skip


# [3,37,29] and what does not vary between tests is compiled once
compiled = jax.jit(operation, static_argnames="style")


def outputs(policy, places=(20.5 / 37, 7.5 / 29), picture=PICTURE, names=OPERATIONS):
    levels = jnp.asarray(picture.transpose(2, 0, 1), jnp.int32)
    arguments = jax.tree.map(
        jnp.asarray, tf_arguments(policy.magnitude, policy, *picture.shape[:2])
    )
    style, places = policy.style(*picture.shape[:2]), jnp.array(places, jnp.float32)
    result = {
        name: compiled(levels, jnp.int32(OPERATIONS.index(name)), arguments, places, style=style)
        for name in names
    }
    return {name: np.asarray(x).transpose(1, 2, 0) for name, x in result.items()}


def close(result, expected, share, name, level=1):
    apart = np.abs(result.astype(int) - expected.astype(int))
    assert apart.max() <= (level if share else 0), name
    assert (apart > 0).mean() <= share, name


@pytest.mark.parametrize("magnitude", [2, 5, 13, 27])
def test_official_operations_equal_tensorflow(magnitude):
    """27 also shows that negative shifts and thresholds above 255 change nothing, and 2 that a
    shift of 8 bits is one of 7."""
    policy = Policy(magnitude, "histogram", "pixels", translate=10.0, cutout=40.0)
    result = outputs(policy)
    recorded = GOLDEN[f"m{magnitude}"]
    for name, expected in zip(OPERATIONS, recorded, strict=True):
        # A level of the smoothed picture, cut and not rounded, counts |1 - factor| times.
        level = math.ceil(abs(0.9 - 0.18 * magnitude)) if name == "sharpness" else 1
        close(result[name], expected, ROUNDED.get(name, 0), name, level)
    levels = jnp.asarray(PICTURE.transpose(2, 0, 1), jnp.int32)
    arguments = jax.tree.map(jnp.asarray, tf_arguments(magnitude, policy, 37, 29))
    style = policy.style(37, 29)
    same = compiled(levels, jnp.int32(NOTHING), arguments, jnp.zeros(2), style=style)
    np.testing.assert_array_equal(same, levels)
    if magnitude == 27:
        for name in ("posterize", "solarize"):
            np.testing.assert_array_equal(result[name], PICTURE)


def test_corrected_operations_equal_pil():
    magnitude = 7
    factor, m = 0.7 * 1.8 + 0.1, 0.7
    result = outputs(Policy(magnitude, "mean", "pixels", translate=10.0))
    image = Image.fromarray(PICTURE)
    H, W, _ = PICTURE.shape
    shear, angle = 0.3 * m, 30 * m
    affine = Image.Transform.AFFINE
    grey = (128, 128, 128)

    def moved(*matrix):
        return image.transform((W, H), affine, matrix, fillcolor=grey)

    expected = {
        "autocontrast": ImageOps.autocontrast(image),
        "equalize": ImageOps.equalize(image),
        "invert": ImageOps.invert(image),
        "posterize": ImageOps.posterize(image, int(4 * m)),
        "solarize": ImageOps.solarize(image, int(256 * m)),
        "contrast": ImageEnhance.Contrast(image).enhance(factor),
        "brightness": ImageEnhance.Brightness(image).enhance(factor),
        "color": ImageEnhance.Color(image).enhance(factor),
        "sharpness": ImageEnhance.Sharpness(image).enhance(factor),
        # PIL reads a matrix at the pixels' centres, half a pixel further: the last column.
        "shear_x": moved(1, shear, -shear / 2, 0, 1, 0),
        "shear_y": moved(1, 0, 0, shear, 1, -shear / 2),
        "translate_x": moved(1, 0, 7, 0, 1, 0),
        "translate_y": moved(1, 0, 0, 0, 1, 7),
        "rotate": image.rotate(angle, fillcolor=grey),
    }
    # PIL's grey is rounded and ours, TensorFlow's, is cut: one level, times the blend's factor.
    levels = {"color": 1, "contrast": 1, "sharpness": 1, "autocontrast": 1, "brightness": 1}
    for name, picture in expected.items():
        apart = np.abs(result[name].astype(int) - np.asarray(picture).astype(int))
        if name == "rotate":  # a coordinate on the edge between two pixels may fall to either
            assert (apart.max(-1) > 0).mean() < 0.005, name
        else:
            assert apart.max() <= levels.get(name, 0), (name, apart.max())


def test_fixed_points_of_the_two_contrasts():
    """The official one is about H W / 256: 4 at 32 px, whatever the picture shows."""
    flat = np.full((32, 32, 3), 100, np.uint8)
    official = outputs(Policy(10.0, "histogram"), picture=flat)["contrast"]
    corrected = outputs(Policy(10.0, "mean"), picture=flat)["contrast"]
    assert set(official.ravel()) == {int(4 + 1.9 * 96)}
    assert set(corrected.ravel()) == {100}


def test_lengths_are_pixels_or_a_share_of_600():
    def shift(policy):
        moved = outputs(policy, picture=np.full((30, 30, 3), 7, np.uint8))["translate_x"]
        return int((moved[0, :, 0] == 128).sum())

    assert shift(Policy(10.0, "mean", "pixels", translate=10.0)) == 10
    assert shift(Policy(10.0, "mean", "relative", translate=100.0)) == 5  # 100 * 30 / 600


def test_cutout_is_clipped_at_the_edges():
    x = jnp.ones((3, 6, 6))
    cut = np.asarray(cut_square(x, jnp.array([0.0, 0.99]), pad=2, fill=(0, 0, 0))[0])
    assert set(zip(*np.nonzero(cut == 0), strict=True)) == {
        (r, c) for r in (0, 1) for c in (3, 4, 5)
    }


def test_operations_are_equally_likely_and_sequential():
    u = np.zeros((2, 4), np.float32)
    u[:, 0] = [(OPERATIONS.index("invert") + 0.5) / 16] * 2
    planes = jnp.asarray(PICTURE.transpose(2, 0, 1) / 255.0, jnp.float32)
    twice = apply_policy(planes, jnp.asarray(u), Policy())
    np.testing.assert_allclose(twice, planes, atol=1e-6)
    once = apply_policy(planes, jnp.asarray(u[:1]), Policy())
    np.testing.assert_allclose(once, 1 - planes, atol=1e-6)
    # Of 1600 draws each of 16 is drawn 100 times; a standard deviation is 9.7.
    draws = np.asarray(jax.random.uniform(jax.random.key(0), (1600,)) * 16).astype(int)
    assert np.all(np.abs(np.bincount(draws, minlength=16) - 100) < 40)


def test_one_at_a_time_and_vmap_agree():
    images = jnp.asarray(tiles(8)["image"] / 255.0, jnp.float32)
    keys = jax.random.split(jax.random.key(1), 8)
    together = jax.jit(jax.vmap(rand_augment))(keys, images)
    one = jax.jit(rand_augment)
    for key, image, result in zip(keys, images, together, strict=True):
        # A value at the border of two levels may round to the other in another program.
        difference = np.abs(np.asarray(one(key, image)) - result)
        assert difference.max() < 1.01 / 255 and np.mean(difference > 1e-6) < 1e-3
    assert float(jnp.min(together)) >= 0 and float(jnp.max(together)) <= 1


def test_the_recipe_is_noise_and_without_operations_it_is_not():
    image, key = tiles(1)["image"][0], jax.random.key(3)
    noisy = jax.jit(make_views("noisy_student", size=32))
    assert not np.allclose(noisy(key, image), noisy(jax.random.key(4), image), atol=0.05)
    plain = make_views("noisy_student", size=32, policy_ops=0, crop="none", flip_p=0.0)
    np.testing.assert_allclose(plain(key, image)[0], image / 255.0, atol=1e-6)
    svhn = jax.jit(make_views("noisy_student_svhn", size=32))
    assert svhn(key, image).shape == (1, 32, 32, 3)


def test_padding_reflects_and_shifts_by_whole_pixels():
    image = tiles(1)["image"][0]
    views = make_views(
        "noisy_student_svhn", size=32, policy_ops=0, cutout_pad=0, flip_p=0.0, crop_pad=4
    )
    padded = np.pad(image / 255.0, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    seen = set()
    for i in range(12):
        result = np.asarray(views(jax.random.key(i), image)[0])
        places = [
            (r, c)
            for r in range(9)
            for c in range(9)
            if np.allclose(result, padded[r : r + 32, c : c + 32], atol=1e-6)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 6


def test_invalid_arguments():
    image = jnp.zeros((4, 4, 3))
    with pytest.raises(UserError, match="Unknown contrast 'maen' of RandAugment: did you mean"):
        rand_augment(jax.random.key(0), image, contrast="maen")
    with pytest.raises(UserError, match="magnitude >= 0, found -1"):
        rand_augment(jax.random.key(0), image, magnitude=-1.0)
    with pytest.raises(UserError, match="policy_ops"):
        make_views("noisy_student", size=32, policy_ops=-1)
