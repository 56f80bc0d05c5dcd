"""Patches: their positions and independent augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.errors import UserError

OFF = {"drop_p": 0.0, "operations": 0, "warp_p": 0.0, "jitter_p": 0.0, "gray_p": 0.0}


def test_patch_positions():
    x = np.random.default_rng(0).random((2, 260, 260, 3), np.float32)
    result = augment.extract_patches(x, patch=80, stride=36)
    assert result.shape == (2, 6, 6, 80, 80, 3)
    np.testing.assert_array_equal(result[0, 0, 0], x[0, :80, :80])
    np.testing.assert_array_equal(result[1, 5, 0], x[1, 180:, :80])
    np.testing.assert_array_equal(result[1, 2, 3], x[1, 72:152, 108:188])


def test_patches_without_overlap_give_the_image_back():
    x = np.random.default_rng(0).random((1, 8, 12, 3), np.float32)
    result = augment.extract_patches(x, patch=4, stride=4)
    np.testing.assert_array_equal(result.transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 12, 3), x)


@pytest.mark.parametrize("numbers", [(260, 80, 35), (32, 40, 4), (32, 8, 0)])
def test_invalid_patch_sizes_are_refused(numbers):
    with pytest.raises(UserError, match="do not fit an image"):
        augment.patch_grid(*numbers)


def test_patches_are_independent_and_do_not_depend_on_the_split():
    x = jnp.broadcast_to(jax.random.uniform(jax.random.key(3), (8, 8, 3)), (4, 3, 3, 8, 8, 3))
    run = jax.jit(lambda key, x, first: augment.augment_patches(key, x, first))
    key = jax.random.key(0)
    full = np.asarray(run(key, x, jnp.int32(0)))
    flat = full.reshape(36, -1)
    assert len({row.tobytes() for row in flat}) == 36
    parts = [run(key, x[i : i + 2], jnp.int32(i)) for i in (0, 2)]
    np.testing.assert_allclose(full, np.concatenate(parts), atol=1e-6)
    assert full.min() >= 0 and full.max() <= 1


def test_zero_probabilities_change_nothing():
    x = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    np.testing.assert_allclose(augment.augment_patch(jax.random.key(1), x, **OFF), x, atol=1e-6)


def test_colour_dropping_keeps_one_random_channel():
    x = jnp.full((300, 1, 1, 2, 2, 3), 0.5)
    out = augment.augment_patches(jax.random.key(0), x, jnp.int32(0), **{**OFF, "drop_p": 1.0})
    kept = np.asarray(out)[:, 0, 0, 0, 0] > 0
    assert (kept.sum(axis=1) == 1).all()
    np.testing.assert_allclose(kept.mean(axis=0), 1 / 3, atol=0.1)  # 3.7 deviations


def test_steps_are_applied_in_sequence():
    """Grayscale and jitter of the original would have undone the operations before them."""
    x = jax.random.uniform(jax.random.key(0), (200, 1, 1, 8, 8, 3))
    both = {**OFF, "gray_p": 1.0, "operations": 2}
    run = jax.jit(lambda x: augment.augment_patches(jax.random.key(1), x, jnp.int32(0), **both))
    result = np.asarray(run(x))
    np.testing.assert_allclose(result[..., 0], result[..., 1], atol=1e-6)
    only_gray = np.stack([augment.grayscale(p[0, 0], semantics="torchvision") for p in x])
    same = [np.allclose(a[0, 0], b, atol=1e-4) for a, b in zip(result, only_gray, strict=True)]
    assert np.mean(same) < 0.1


def test_probabilities_of_gray_and_warp():
    x = jax.random.uniform(jax.random.key(0), (400, 1, 1, 8, 8, 3))
    for option, p in (("gray_p", 0.25), ("warp_p", 0.2), ("jitter_p", 0.8)):
        run = jax.jit(
            lambda x, o=option, p=p: augment.augment_patches(
                jax.random.key(1), x, jnp.int32(0), **{**OFF, o: p}
            )
        )
        changed = np.abs(np.asarray(run(x)) - np.asarray(x)).max(axis=(1, 2, 3, 4, 5)) > 1e-3
        np.testing.assert_allclose(changed.mean(), p, atol=0.08)  # four deviations


def test_invalid_arguments():
    with pytest.raises(ValueError, match="grey_p"):
        augment.augment_patch(jax.random.key(0), jnp.zeros((8, 8, 3)), grey_p=1.0)
