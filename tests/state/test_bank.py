"""The memory bank: draws, written rows, and equality over devices."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jssl import state as leaves
from jssl.errors import UserError
from jssl.state.rows import write
from jssl.state.shards import partition_specs

AXIS = "some_axis"


def unit(*shape, seed=0):
    z = np.random.default_rng(seed).normal(size=shape)
    return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


@functools.partial(jax.jit, static_argnames=("num_negatives", "num_examples"))
def draw(key, index, first, *, num_negatives, num_examples):
    return leaves.draw_candidates(
        key, index, first, num_negatives=num_negatives, num_examples=num_examples
    )


def test_initial_rows_are_uniform_with_mean_norm_one():
    bank = leaves.init_bank(jax.random.key(0), views=2, num_examples=1024, dim=128)
    bound = 1 / math.sqrt(128 / 3)
    assert bank.shape == (2, 1024, 128) and bank.dtype == jnp.float32
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


def test_draws_are_keyed_by_step_and_global_index():
    y, key = jnp.arange(8, dtype=jnp.int32), jax.random.key(3)
    options = {"num_negatives": 6, "num_examples": 1000}
    full = draw(key, y, jnp.int32(0), **options)
    parts = [draw(key, y[i : i + 4], jnp.int32(i), **options) for i in (0, 4)]
    np.testing.assert_array_equal(full, np.concatenate(parts))
    assert len(np.unique(full[:, 1:])) > 40  # of 48: each example draws its own
    other = draw(jax.random.fold_in(key, 1), y, jnp.int32(0), **options)
    assert np.mean(full[:, 1:] == other[:, 1:]) < 0.1


def test_every_index_of_imagenet_can_be_drawn():
    """A dtype with too few bits would never draw some indices of 1,281,167."""
    M = 1_281_167
    y = jnp.full(64, M - 1, jnp.int32)
    drawn = np.asarray(draw(jax.random.key(1), y, jnp.int32(0), num_negatives=4096, num_examples=M))
    assert (drawn[:, 0] == M - 1).all()
    assert 0 <= drawn.min() < 100 and M - 100 < drawn[:, 1:].max() < M
    assert abs(np.mean(drawn[:, 1:] % 2) - 0.5) < 0.01
    assert abs(np.mean(drawn[:, 1:]) / M - 0.5) < 0.01


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_update_only_changes_the_rows_of_the_batch(momentum):
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


def test_first_duplicate_is_written():
    bank, f = unit(1, 4, 4), unit(1, 3, 4, seed=1)
    new = write(leaves.update_bank(bank, f, jnp.array([2, 1, 2]), momentum=0.5))
    once = write(leaves.update_bank(bank, f[:, :2], jnp.array([2, 1]), momentum=0.5))
    np.testing.assert_array_equal(new, once)


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "vmap"])
def test_banks_on_four_devices_equal_that_on_one(mode):
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


@pytest.fixture(scope="module")
def parts():
    """Scores, their gradient and the written bank where each of four devices has a quarter."""
    bank, f = unit(2, 1024, 4), unit(2, 8, 4, seed=1)
    y = np.int32([3, 1023, 0, 700, 256, 255, 5, 513])
    index = np.random.default_rng(2).integers(0, 1000, (8, 6)).astype(np.int32)
    index[:, 0] = y
    weights = np.random.default_rng(3).normal(size=(2, 8, 6)).astype(np.float32)

    def local(bank, f, y, index, weights):
        first = leaves.first_row(bank, num_examples=1000, axis_name=AXIS)

        def scores_of(f):
            def score(f, rows):
                return jnp.einsum("vbd,vbkd->vbk", f, rows, precision="highest")[None]

            result = leaves.score_candidates(score, bank, f, index, first=first, axis_name=AXIS)[0]
            return jnp.sum(result * weights), result

        (_, scores), grad = jax.value_and_grad(scores_of, has_aux=True)(f)
        new = leaves.update_bank(bank, f, y, momentum=0.5, first=first, axis_name=AXIS)
        return scores, grad, write(new)

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (AXIS,))
    middle = P(None, AXIS)
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(middle, middle, P(AXIS), P(AXIS), middle),
        out_specs=(middle, middle, middle),
        check_vma=False,
    )
    return (bank, f, y, index, weights), jax.jit(mapped)(bank, f, y, index, weights)


def test_scores_with_candidates_on_other_devices(parts):
    (bank, f, _, index, weights), (scores, grad, _) = parts
    rows = bank[:, index].astype(np.float64)  # [V,B,K+1,D]
    np.testing.assert_allclose(scores, np.einsum("vbd,vbkd->vbk", f, rows), atol=1e-6)
    # The sum over devices is differentiated: once for each anchor, not once for each device.
    np.testing.assert_allclose(grad, np.einsum("vbk,vbkd->vbd", weights, rows), atol=1e-5)


def test_each_device_writes_its_own_rows(parts):
    (bank, f, y, _, _), (_, _, new) = parts
    expected = bank.copy()
    rows = 0.5 * bank[:, y] + 0.5 * f
    expected[:, y] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    np.testing.assert_allclose(new, expected, atol=1e-6)
    others = np.setdiff1d(np.arange(1024), y)
    np.testing.assert_array_equal(new[:, others], bank[:, others])


def test_unequal_parts_of_a_bank_are_refused():
    with pytest.raises(ValueError, match=r"has 2048 rows, found 1024 on each of 1 device"):
        leaves.first_row(jnp.zeros((1, 1024, 2)), num_examples=1025)


def test_indivisible_leaves_are_refused():
    class State(NamedTuple):
        bank: jax.Array

    State.SPLIT = {"bank": 1}
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:3]), (AXIS,))
    with pytest.raises(UserError, match=r"'bank' \(2, 1024, 4\).* by 3 .*--config.launch=pmap"):
        partition_specs(State(jnp.zeros((2, 1024, 4))), mesh)


def test_inconsistent_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) for index \(3,\), found \(3, 2, 4\)"):
        leaves.update_bank(
            jnp.ones((2, 9, 4)), jnp.ones((3, 2, 4)), jnp.zeros(3, int), momentum=0.5
        )
