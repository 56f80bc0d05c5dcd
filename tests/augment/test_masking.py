"""Masks of blocks: the measured statistics of the official generator, and a naive Algorithm 1."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.augment import masking
from jssl.errors import UserError

MASKS = 8000


def draw(generator, count):
    def one(key):
        return masking.blockwise_mask(key, grid=(14, 14), count=count, generator=generator)

    keys = jax.random.split(jax.random.key(3), MASKS)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.fixture(scope="module")
def official():
    return draw("official", 75)


@pytest.fixture(scope="module")
def lecture():
    return draw("lecture", 78)


def test_the_official_generator_has_the_measured_statistics(official):
    """Of the official code over 20,000 masks: mean 74.47, sd .99, min 64, P(75) .666."""
    sizes = official.sum(axis=(1, 2))
    assert sizes.max() == 75  # never more
    assert abs(sizes.mean() - 74.47) < 4 * 0.99 * math.sqrt(1 / MASKS + 1 / 20000)
    assert abs(sizes.std() - 0.99) < 0.05
    # its error over both samples: sqrt(.666 .334 (1/8000 + 1/20000)) = .0062
    assert abs((sizes == 75).mean() - 0.666) < 4 * 0.0062
    assert 60 <= sizes.min() <= 70  # 64 of 20,000: an extreme is known to a few patches only


def test_the_official_generator_has_the_measured_marginals(official):
    marginal = official.mean(axis=0)
    corners = marginal[[0, 0, -1, -1], [0, -1, 0, -1]]
    middles = [marginal[0, 6:8], marginal[-1, 6:8], marginal[6:8, 0], marginal[6:8, -1]]
    # recorded to three digits; four standard errors of a share of 8,000 masks and 20,000
    error = 4 * math.sqrt(0.25 * (1 / MASKS + 1 / 20000))
    assert abs(corners.mean() - 0.042) < 4 * math.sqrt(0.042 / (4 * MASKS)) + 0.004
    assert abs(np.mean(middles) - 0.194) < error
    assert abs(marginal[6:8, 6:8].mean() - 0.718) < error


def naive_lecture(rng, h, w, count):
    """Algorithm 1 of the lecture line by line, in patches."""
    masked = set()
    while True:
        s = rng.uniform(16, count - len(masked))
        r = rng.uniform(0.3, 1 / 0.3)
        a = min(max(round(math.sqrt(s * r)), 1), h)
        b = min(max(round(math.sqrt(s / r)), 1), w)
        t, left = rng.randint(0, h - a), rng.randint(0, w - b)
        masked |= {(i, j) for i in range(t, t + a) for j in range(left, left + b)}
        if len(masked) > count:
            return masked


def test_algorithm_1_of_the_lecture_equals_a_naive_loop_in_distribution(lecture):
    rng = random.Random(0)
    naive = np.zeros((4000, 14, 14), bool)
    for mask in naive:
        for i, j in naive_lecture(rng, 14, 14, 78):
            mask[i, j] = True
    a, b = lecture.sum(axis=(1, 2)), naive.sum(axis=(1, 2))
    assert a.min() == b.min() == 79  # more than 78, and 79 is common
    error = 4 * b.std() * math.sqrt(1 / 4000 + 1 / MASKS)
    assert abs(a.mean() - b.mean()) < error
    assert abs((a == 79).mean() - (b == 79).mean()) < 4 * 0.5 * math.sqrt(1 / 4000 + 1 / MASKS)
    # every patch: 5 standard errors, as there are 196
    p = naive.mean(axis=0)
    spread = np.sqrt(p * (1 - p) * (1 / 4000 + 1 / MASKS))
    assert np.all(np.abs(lecture.mean(axis=0) - p) < 5 * spread)
    most = masking.largest_mask(grid=(14, 14), count=78, min_patches=16, generator="lecture")
    assert max(a.max(), b.max()) <= most


def test_aspects_of_the_two_generators_differ(official, lecture):
    """Uniform aspects above .3 are mostly tall: taller than wide. The code's are symmetric."""

    def longest(masks, axis):
        return np.any(masks, axis=axis).sum(axis=1).mean()

    assert abs(longest(official, 2) - longest(official, 1)) < 0.15
    assert longest(lecture, 2) - longest(lecture, 1) > 1.0


def test_exact_mask(official):
    few, many = official[:64], jnp.ones((2, 14, 14), bool)
    keys = jax.random.split(jax.random.key(0), 64)
    exact = jax.jit(jax.vmap(lambda k, m: masking.exact_mask(k, m, count=75)))
    result = np.asarray(exact(keys, few))
    assert set(result.sum(axis=(1, 2))) == {75}
    assert np.all(result[few])
    dropped = np.asarray(exact(keys[:2], many))
    assert set(dropped.sum(axis=(1, 2))) == {75}
    assert not np.array_equal(dropped[0], dropped[1])


def test_masked_places_lists_each_masked_patch_once(official):
    places = jax.jit(jax.vmap(lambda m: masking.masked_places(m, size=75)))
    index, weight = map(np.asarray, places(official[:64]))
    for mask, i, w in zip(official[:64], index, weight, strict=True):
        np.testing.assert_array_equal(i[w > 0], np.flatnonzero(mask))
        assert len(np.unique(i)) == 75
        assert w.sum() == mask.sum()
    assert (weight == 0).any()


def test_invalid_arguments():
    key = jax.random.key(0)
    with pytest.raises(UserError, match="did you mean 'official'"):
        masking.blockwise_mask(key, grid=(4, 4), count=6, generator="offical")
    with pytest.raises(UserError, match="Masking 16 of 4 x 4 patches: expected a number from 1"):
        masking.blockwise_mask(key, grid=(4, 4), count=16)
