"""The memory bank: draws, where rows are written, and that all devices hold the same one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jssl import state as leaves
from jssl.state.rows import write

AXIS = "some_axis"


def unit(*shape, seed=0):
    z = np.random.default_rng(seed).normal(size=shape)
    return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


@functools.partial(jax.jit, static_argnames=("num_negatives", "num_examples"))
def draw(key, index, first, *, num_negatives, num_examples):
    return leaves.draw_candidates(
        key, index, first, num_negatives=num_negatives, num_examples=num_examples
    )


def test_first_rows_are_uniform_with_length_one_on_average():
    bank = leaves.init_bank(jax.random.key(0), views=2, num_examples=500, dim=128)
    bound = 1 / math.sqrt(128 / 3)
    assert bank.shape == (2, 500, 128) and bank.dtype == jnp.float32
    assert 0.999 * bound < np.max(bank) < bound and -bound <= np.min(bank) < -0.999 * bound
    np.testing.assert_allclose(np.mean(np.square(bank)), 1 / 128, rtol=0.02)
    assert np.abs(np.corrcoef(bank[0].ravel(), bank[1].ravel())[0, 1]) < 0.02


def test_draws_are_uniform_with_replacement_and_may_be_the_example_itself():
    y = jnp.arange(40, dtype=jnp.int32)
    drawn = draw(jax.random.key(0), y, jnp.int32(0), num_negatives=2000, num_examples=40)
    assert drawn.shape == (40, 2001) and drawn.dtype == jnp.int32
    np.testing.assert_array_equal(drawn[:, 0], y)
    counts = np.bincount(np.ravel(drawn[:, 1:]), minlength=40)
    chi2 = np.sum((counts - 2000) ** 2 / 2000)  # 39 degrees of freedom
    assert len(counts) == 40 and 15 < chi2 < 80
    own = np.sum(drawn[:, 1:] == y[:, None], axis=1)  # K / M expected: 50
    assert 20 < own.min() and own.max() < 90


def test_draws_are_keyed_by_step_and_global_place():
    y, key = jnp.arange(8, dtype=jnp.int32), jax.random.key(3)
    options = {"num_negatives": 6, "num_examples": 1000}
    whole = draw(key, y, jnp.int32(0), **options)
    halves = [draw(key, y[i : i + 4], jnp.int32(i), **options) for i in (0, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    assert len(np.unique(whole[:, 1:])) > 40  # of 48: each example draws its own
    other = draw(jax.random.fold_in(key, 1), y, jnp.int32(0), **options)
    assert np.mean(whole[:, 1:] == other[:, 1:]) < 0.1


def test_every_place_of_imagenet_can_be_drawn():
    """A dtype with too few bits would leave out places, or the odd ones, of 1,281,167."""
    M = 1_281_167
    y = jnp.full(64, M - 1, jnp.int32)
    drawn = np.asarray(draw(jax.random.key(1), y, jnp.int32(0), num_negatives=4096, num_examples=M))
    assert (drawn[:, 0] == M - 1).all()
    assert 0 <= drawn.min() < 100 and M - 100 < drawn[:, 1:].max() < M
    assert abs(np.mean(drawn[:, 1:] % 2) - 0.5) < 0.01
    assert abs(np.mean(drawn[:, 1:]) / M - 0.5) < 0.01


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_update_moves_the_rows_of_the_batch_and_no_other(momentum):
    V, M, D = 2, 10, 4
    bank, f, y = unit(V, M, D), unit(V, 3, D, seed=1), np.int32([7, 0, 4])
    new = np.asarray(write(leaves.update_bank(bank, f, y, momentum=momentum)))
    expected = bank.copy()
    for v in range(V):
        for b in range(3):
            row = momentum * bank[v, y[b]] + (1 - momentum) * f[v, b]
            expected[v, y[b]] = row / np.sqrt(np.sum(row**2))
    np.testing.assert_allclose(new, expected, atol=1e-6)
    others = np.setdiff1d(np.arange(M), y)
    np.testing.assert_array_equal(new[:, others], bank[:, others])
    np.testing.assert_allclose(np.linalg.norm(new[:, y], axis=-1), 1.0, rtol=1e-6)
    assert np.abs(new[:, y] - bank[:, y]).min(axis=-1).max() > 1e-3


def test_update_takes_no_gradient():
    bank, f, y = unit(2, 5, 4), unit(2, 2, 4, seed=1), jnp.array([1, 3])
    grad = jax.grad(lambda f: jnp.sum(write(leaves.update_bank(bank, f, y, momentum=0.5)) ** 3))(f)
    np.testing.assert_array_equal(grad, 0.0)
    grad = jax.grad(lambda bank: jnp.sum(leaves.lookup(bank, y) ** 3))(bank)
    np.testing.assert_array_equal(grad, 0.0)


def test_an_example_that_comes_twice_is_written_by_the_first():
    bank, f = unit(1, 4, 4), unit(1, 3, 4, seed=1)
    new = write(leaves.update_bank(bank, f, jnp.array([2, 1, 2]), momentum=0.5))
    once = write(leaves.update_bank(bank, f[:, :2], jnp.array([2, 1]), momentum=0.5))
    np.testing.assert_array_equal(new, once)


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "vmap"])
def test_every_device_ends_with_the_bank_of_one_device(mode):
    bank, f, y = unit(2, 20, 4), unit(2, 8, 4, seed=1), np.int32([3, 19, 0, 7, 11, 2, 5, 13])
    expected = write(leaves.update_bank(bank, f, y, momentum=0.5))

    def local(bank, f, y):
        return write(leaves.update_bank(bank, f, y, momentum=0.5, axis_name=AXIS))

    pieces = f.reshape(2, 4, 2, 4).swapaxes(0, 1), y.reshape(4, 2)
    if mode == "shard_map":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (AXIS,))
        mapped = jax.shard_map(
            lambda b, f, y: local(b, f, y)[None],
            mesh=mesh,
            in_specs=(P(), P(None, AXIS), P(AXIS)),
            out_specs=P(AXIS),
            check_vma=False,
        )
        banks = jax.jit(mapped)(bank, f, y)
    elif mode == "pmap":
        banks = jax.pmap(local, AXIS, in_axes=(None, 0, 0))(bank, *pieces)
    else:
        banks = jax.vmap(local, (None, 0, 0), axis_name=AXIS)(bank, *pieces)
    assert banks.shape == (4, 2, 20, 4)
    for device in range(4):
        np.testing.assert_allclose(banks[device], expected, atol=1e-7)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) for index \(3,\), found \(3, 2, 4\)"):
        leaves.update_bank(
            jnp.ones((2, 9, 4)), jnp.ones((3, 2, 4)), jnp.zeros(3, int), momentum=0.5
        )
