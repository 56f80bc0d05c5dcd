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


OWN = {"normalize": "own", "mean": (0.25, 0.5), "std": (0.5, 0.125)}


@pytest.mark.quick
def test_own_mean_and_deviation_of_any_number_of_channels():
    x = np.random.default_rng(1).random((2, 5, 4, 2)).astype(np.float32)
    statistics = augment.statistics_of(OWN, 2)
    result = augment.normalize(jnp.asarray(x), statistics)
    np.testing.assert_allclose(result, (x - [0.25, 0.5]) / [0.5, 0.125], atol=1e-5)
    np.testing.assert_allclose(augment.denormalize(result, statistics), x, atol=1e-6)
    np.testing.assert_array_equal(
        augment.normalize(jnp.asarray(x), "half"), (x - np.float32(0.5)) / np.float32(0.5)
    )
    assert augment.statistics_of({"normalize": "imagenet"}) == "imagenet"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "channels", "expected"),
    [
        ({"std": ()}, 2, r"2 numbers in augment.mean and 0 in augment.std: expected 2 numbers"),
        ({"mean": ()}, 2, r"Type for example --config.augment.mean='\(0.5, 0.5,\)'"),
        ({}, 3, r"expected 3 numbers in each, one for each channel \(data.channels\)"),
        ({"std": (0.5, 0.0)}, 2, r"augment.std=\(0.5, 0.0\): expected .* deviation above 0"),
        ({"mean": (0.5, 127.0)}, 2, r"expected numbers for pixels in \[0, 1\]"),
        ({"normalize": "cifar10"}, 3, r"augment.normalize='cifar10', which has numbers of its own"),
        ({"normalize": "onw", "mean": (), "std": ()}, 3, r"did you mean 'own'\?"),
        ({"normalize": "imagenet", "mean": (), "std": ()}, 1, r"normalize=none, or =own with"),
    ],
)
def test_own_statistics_that_do_not_fit_are_refused(change, channels, expected):
    with pytest.raises(UserError, match=expected):
        augment.statistics_of({**OWN, **change}, channels)
