"""Mixup, CutMix and random erasing, against values worked by hand and their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment
from jssl.errors import UserError

KEY = jax.random.key(3)
BATCH = jnp.broadcast_to(jnp.arange(8.0).reshape(8, 1, 1, 1), (8, 8, 8, 1))


def mixed(**options):
    return augment.mix_batch(KEY, BATCH, jnp.eye(8), **options)


def test_partner_is_the_mirrored_index_in_its_group():
    """Image i is lambda i + (1 - lambda)(n - 1 - i), and so is its target."""
    x, y = map(np.asarray, mixed(group_size=8, cutmix_alpha=0.0))
    for i in range(8):
        weight = y[i, i]
        np.testing.assert_allclose(y[i, 7 - i], 1 - weight, atol=1e-6)
        np.testing.assert_allclose(y[i].sum(), 1, atol=1e-6)
        np.testing.assert_allclose(x[i], weight * i + (1 - weight) * (7 - i), atol=1e-5)
    assert np.ptp(np.diagonal(y)) == 0 and 0 < y[0, 0] < 1  # one lambda


def test_cutmix_weights_are_the_share_of_pixels():
    x, y = map(np.asarray, mixed(group_size=4, mixup_alpha=0.0))
    for i in range(8):
        partner = 3 - i if i < 4 else 11 - i
        own = np.mean(x[i] == i)
        assert set(np.unique(x[i])) <= {i, partner}
        np.testing.assert_allclose(y[i, i], own, atol=1e-6)
        np.testing.assert_allclose(y[i, partner], 1 - own, atol=1e-6)
    assert 0 < y[0, 0] < 1


def test_draws_of_a_group_do_not_depend_on_the_device():
    full = mixed(group_size=4)
    second = augment.mix_batch(KEY, BATCH[4:], jnp.eye(8)[4:], group_size=4, first=jnp.int32(4))
    for a, b in zip(full, second, strict=True):
        np.testing.assert_array_equal(a[4:], b)
    assert not np.allclose(np.asarray(full[1])[0, 0], np.asarray(full[1])[4, 4])


def test_group_size_must_divide_the_batch():
    with pytest.raises(UserError, match="groups of 3 images, but a device has 8"):
        mixed(group_size=3)


def test_nothing_is_mixed_without_alphas_or_chance():
    for options in ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, {"p": 0.0}):
        x, y = mixed(group_size=8, **options)
        np.testing.assert_array_equal(x, BATCH)
        np.testing.assert_array_equal(y, jnp.eye(8))


@pytest.mark.parametrize(
    ("weight", "u", "box", "kept"),
    [
        (0.75, (0.5, 0.5), (2, 6, 2, 6), 0.75),
        (0.75, (0.0, 0.99), (0, 2, 5, 8), 1 - 6 / 64),  # clipped at two edges
        (0.5, (0.5, 0.5), (2, 6, 2, 6), 0.75),  # int(8 sqrt(.5)) = 5, of which 5 // 2 each way
        (1.0, (0.5, 0.5), (4, 4, 4, 4), 1.0),
        (0.0, (0.5, 0.0), (0, 8, 0, 4), 0.5),
    ],
)
def test_box_and_weight_by_hand(weight, u, box, kept):
    result, true_weight = augment.cutmix_box(jnp.float32(weight), jnp.array(u), height=8, width=8)
    assert result.tolist() == list(box)
    assert float(true_weight) == kept


def test_lambda_is_beta_and_half_are_cutmix():
    keys = jax.random.split(KEY, 4000)
    draw = jax.jit(jax.vmap(lambda key: augment.draw_mix(key, height=64, width=64)))
    mix = jax.tree.map(np.asarray, draw(keys))
    assert abs(mix.cut.mean() - 0.5) < 0.03  # four standard errors are .032
    weight = mix.weight[~mix.cut]
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)): .0962 for a = .8
    assert abs(weight.mean() - 0.5) < 0.03
    assert abs(weight.var() - 1 / 10.4) < 0.006
    top, bottom, left, right = mix.box[mix.cut].T
    share = 1 - (bottom - top) * (right - left) / 64**2
    np.testing.assert_allclose(mix.weight[mix.cut], share, atol=1e-6)


@pytest.fixture(scope="module")
def erased():
    keys = jax.random.split(KEY, 2000)
    image = jnp.full((32, 32, 3), 100.0)
    return np.asarray(jax.jit(jax.vmap(lambda key: augment.random_erasing(key, image)))(keys))


def test_a_quarter_is_erased_within_the_limits_of_area(erased):
    hit = (erased != 100).all(axis=3)
    some = hit.any(axis=(1, 2))
    assert abs(some.mean() - 0.25) < 0.04  # four standard errors
    shares = hit[some].mean(axis=(1, 2))
    # The smallest: .02 of 1024 pixels is 20, whose sides are rounded to whole pixels.
    assert shares.min() > 0.012 and shares.max() < 0.345
    # Uniform on [.02, 1/3], without the largest that are too long: a mean of a little below .177
    assert 0.14 < shares.mean() < 0.185


def test_erased_pixels_are_a_rectangle_of_normal_noise(erased):
    hit = (erased != 100).all(axis=3)
    for mask in hit[hit.any(axis=(1, 2))][:50]:
        assert mask.sum() == mask.any(axis=1).sum() * mask.any(axis=0).sum()
    noise = erased[hit]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.02  # channels on their own


def test_the_aspect_is_log_uniform(erased):
    hit = (erased != 100).all(axis=3)
    hit = hit[hit.any(axis=(1, 2))]
    logs = np.log(hit.any(axis=2).sum(axis=1) / hit.any(axis=1).sum(axis=1))
    assert abs(logs.mean()) < 0.12
    assert logs.max() <= np.log(1 / 0.3) + 0.4 and logs.min() >= -np.log(1 / 0.3) - 0.4
    assert 0.55 < logs.std() < 0.75  # of the whole range: 1.204 / sqrt(3) = .695
