"""The queue of keys: order, wrap-around, errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import state
from jssl.errors import UserError


def test_queue_holds_the_last_keys_in_order():
    """K=12, batches of 4: after K/N steps all of it, pointer 0; then the oldest go first."""
    queue, pointer = state.random_queue(jax.random.key(0), size=12, dim=3)
    batches = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    pointers = []
    for i, keys in enumerate(batches):
        before = np.asarray(queue)
        queue, pointer = jax.jit(state.enqueue)(queue, pointer, keys)
        untouched = np.delete(np.arange(12), np.arange(4) + 4 * (i % 3))
        np.testing.assert_array_equal(queue[untouched], before[untouched])
        pointers.append(int(pointer))
        if i == 2:
            np.testing.assert_array_equal(queue, batches[:3].reshape(12, 3))
    assert pointers == [4, 8, 0, 4, 8]
    np.testing.assert_array_equal(queue, batches[[3, 4, 2]].reshape(12, 3))


def test_initial_queue_is_uniform_on_the_sphere():
    queue, pointer = state.random_queue(jax.random.key(1), size=4000, dim=8)
    assert queue.dtype == jnp.float32 and pointer.dtype == jnp.int32 and int(pointer) == 0
    np.testing.assert_allclose(jnp.linalg.norm(queue, axis=1), 1.0, rtol=1e-5)
    # Coordinates of a uniform direction: mean 0, mean square 1/D; 5 standard errors.
    np.testing.assert_allclose(queue.mean(0), 0.0, atol=5 / np.sqrt(8 * 4000))
    np.testing.assert_allclose((queue**2).mean(0), 1 / 8, atol=5 * 0.16 / np.sqrt(4000))


def test_bfloat16_keys_keep_the_queues_dtype():
    queue, _ = state.enqueue(jnp.zeros((4, 2)), jnp.int32(0), jnp.ones((2, 2), jnp.bfloat16))
    assert queue.dtype == jnp.float32


def test_unit_rows():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(state.unit_rows(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert state.unit_rows(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("size", "batch", "named"),
    [(1000, 256, "=768 or .*=1024"), (100, 256, "queue_size=256[.]"), (0, 8, "queue_size=8[.]")],
)
def test_invalid_queue_sizes_name_the_nearest(size, batch, named):
    with pytest.raises(UserError, match=f"queue of {size} keys .* multiple of {batch}.*{named}"):
        state.check_queue_size(size, batch_size=batch)


def test_misuse_raises_with_the_shapes():
    with pytest.raises(ValueError, match=r"divisible by N, found queue and keys \(\(6, 2\), \(4"):
        state.enqueue(jnp.zeros((6, 2)), jnp.int32(0), jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"keys \[N,D\], found \(\(6, 2\), \(3, 3\)\)"):
        state.enqueue(jnp.zeros((6, 2)), jnp.int32(0), jnp.zeros((3, 3)))


def test_ema_is_float32_as_bfloat16_does_not_change():
    """1 - m = 1e-3 is below bfloat16's 2^-8: a bfloat16 average would never leave 1.0."""
    average, new = jnp.ones(4, jnp.bfloat16), jnp.full(4, 1.25, jnp.bfloat16)
    moved = jax.lax.fori_loop(
        0,
        1000,
        lambda _, a: state.ema(a, {"w": new}, momentum=0.999),
        {"w": average.astype(jnp.float32)},
    )["w"]
    assert moved.dtype == jnp.float32
    np.testing.assert_allclose(moved, 1.25 - 0.25 * 0.999**1000, rtol=5e-5)
    one_step = state.ema({"w": average}, {"w": new}, momentum=0.999)["w"]
    np.testing.assert_array_equal(one_step.astype(jnp.bfloat16), average)


def test_ema_refuses_other_shapes():
    average = {"w": jnp.zeros((3, 2))}
    chex.assert_shape(state.ema(average, {"w": jnp.ones((3, 2))}, momentum=0.5)["w"], (3, 2))
    for other in ({"w": jnp.ones((1, 2))}, {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}):
        with pytest.raises(AssertionError):
            state.ema(average, other, momentum=0.5)
