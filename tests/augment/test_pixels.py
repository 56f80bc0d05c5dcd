"""Pixel values to float and to the statistics of a data set."""

import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.errors import UserError


def test_uint8_becomes_float_between_0_and_1():
    levels = np.arange(256, dtype=np.uint8)
    result = augment.to_float(jnp.asarray(levels))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, levels / 255, rtol=1e-6)
    half = jnp.array([0.25], jnp.bfloat16)
    assert augment.to_float(half).dtype == jnp.float32
    with pytest.raises(ValueError, match="uint8, or float in .*; found int32"):
        augment.to_float(jnp.arange(3))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        # torchvision's; MoCo's CIFAR demo; the sets' usual per-channel statistics
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("stl10", (0.4467, 0.4398, 0.4066), (0.2241, 0.2215, 0.2239)),
        ("none", (0, 0, 0), (1, 1, 1)),
    ],
)
def test_normalize(name, mean, std):
    x = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    result = augment.normalize(jnp.asarray(x), name)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (x - np.array(mean)) / np.array(std), atol=1e-5)


def test_unknown_statistics_are_named():
    with pytest.raises(UserError, match=r"'imagnet' .*did you mean 'imagenet'\?"):
        augment.normalize(jnp.zeros((1, 3)), "imagnet")
