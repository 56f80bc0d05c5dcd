"""InfoNCE with a queue and MoCo v3's loss against recorded values and closed forms."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses, state

GOLDEN = Path(__file__).parents[1] / "golden" / "moco_torch.npz"
AXIS = "some_axis"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def golden():
    return {
        k: v.astype(np.float32) if v.ndim > 1 else v for k, v in np.load(GOLDEN).items()
    }  # recorded in float64


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# InfoNCE with a queue -----------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1])
def test_values_gradients_and_queue_equal_lightly_over_five_batches(golden, t):
    """The queue of lightly's memory bank holds three batches: five go once around and on."""
    temperature = float(golden["temperature"][t])
    queue, pointer = jnp.asarray(golden[f"queue_{t}"]), jnp.int32(0)

    @jax.jit
    def value_and_grad(q, k, queue):
        return jax.value_and_grad(
            lambda q: jnp.mean(losses.info_nce(q, k, queue, temperature=temperature))
        )(q)

    for i in range(5):
        q, k = golden[f"queries_{t}"][i], golden[f"keys_{t}"][i]
        loss, grad = value_and_grad(q, k, queue)
        np.testing.assert_allclose(loss, golden[f"losses_{t}"][i], rtol=2e-5)
        np.testing.assert_allclose(grad, golden[f"grads_{t}"][i], atol=1e-5)
        queue, pointer = state.enqueue(queue, pointer, state.unit_rows(jnp.asarray(k)))
        np.testing.assert_allclose(queue, golden[f"queues_{t}"][i], atol=1e-6)
    assert int(pointer) == 8  # 20 mod 12


def test_info_nce_by_the_equation():
    """Equation 1 as a loop, one example after the other."""
    q, k, queue = RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7)), unit(RNG.normal(size=(9, 7)))
    expected = []
    for i in range(5):
        qi, ki = unit(q[i]), unit(k[i])
        positive = math.exp(qi @ ki / 0.2)
        negatives = sum(math.exp(qi @ row / 0.2) for row in queue)
        expected.append(-math.log(positive / (positive + negatives)))
    f32 = [jnp.asarray(x, jnp.float32) for x in (q, k, queue)]
    loss, top1 = losses.info_nce_with_top1(*f32, temperature=0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    nearest = [np.argmax([unit(q[i]) @ unit(k[i]), *(queue @ unit(q[i]))]) == 0 for i in range(5)]
    np.testing.assert_array_equal(top1, nearest)
    raw = losses.info_nce(f32[0] / 10, f32[1], f32[2], temperature=0.2, normalize=False)
    assert np.abs(raw - loss).max() > 0.1


@pytest.mark.parametrize("K", [1, 16, 4096])
def test_info_nce_at_uniform_logits_is_ln_of_k_plus_one(K):
    z = jnp.ones((3, 4))
    loss, top1 = losses.info_nce_with_top1(z, z, jnp.full((K, 4), 0.5), temperature=0.07)
    np.testing.assert_allclose(loss, math.log(K + 1), rtol=1e-5)
    np.testing.assert_array_equal(top1, np.zeros(3))  # a tie is not a hit


@pytest.mark.parametrize(
    ("K", "temperature", "published"),
    [(4096, 0.1, 8.73), (4096, 0.2, 8.46), (65536, 0.07, 11.96), (65536, 0.2, 11.19)],
)
def test_info_nce_of_random_features(K, temperature, published):
    """Independent unit vectors, D=128: ln K + 1 / (2 D T^2), and one published draw of it.

    A similarity is close to normal with variance 1/D; the positive's spreads by 1 / (T sqrt(D))
    an example, and the published draw has some 32 of them.
    """
    D, B = 128, 128
    q, k = RNG.normal(size=(2, B, D)).astype(np.float32)
    queue = unit(RNG.normal(size=(K, D))).astype(np.float32)
    loss = float(jnp.mean(losses.info_nce(q, k, queue, temperature=temperature)))
    spread = 1 / (temperature * math.sqrt(D))
    expected = math.log(K) + 1 / (2 * D * temperature**2)
    assert abs(loss - expected) < 4 * spread / math.sqrt(B) + 0.02
    assert abs(expected - published) < 3 * spread / math.sqrt(32)


def test_no_gradient_reaches_keys_and_queue():
    q, k = RNG.normal(size=(2, 4, 6)).astype(np.float32)
    queue = unit(RNG.normal(size=(8, 6))).astype(np.float32)

    def f(q, k, queue):
        return jnp.mean(losses.info_nce(q, k, queue, temperature=0.2))

    to_q, to_k, to_queue = jax.grad(f, argnums=(0, 1, 2))(q, k, queue)
    assert float(jnp.abs(to_q).max()) > 1e-3
    assert not np.any(to_k) and not np.any(to_queue)

    def v3(q, k):
        return jnp.mean(losses.symmetric_info_nce(q, q, k, k + q, temperature=1.0))

    def v3_keys_alone(k):
        return v3(jnp.asarray(q), k)

    assert not np.any(jax.grad(v3_keys_alone)(jnp.asarray(k)))


# MoCo v3 ------------------------------------------------------------------------------------------


def v3_of_one_device(q, k, temperature, axis_name=None):
    """Mean loss of a device's queries and its gradients, with its share of the keys."""

    def f(q):
        loss = losses.symmetric_info_nce(
            q[0], q[1], k[0], k[1], temperature=temperature, axis_name=axis_name
        )
        return jnp.mean(loss)

    return jax.value_and_grad(f)(q)


@pytest.mark.parametrize("mode", ["vmap", "pmap"])
@pytest.mark.parametrize("t", [0, 1])
def test_v3_equals_the_official_formula_on_two_processes(golden, t, mode):
    temperature = float(golden["v3_temperature"][t])
    q, k = (golden[f"v3_{x}_{t}"].reshape(2, 2, 4, 6).swapaxes(0, 1) for x in "qk")
    f = functools.partial(v3_of_one_device, temperature=temperature, axis_name=AXIS)
    spread = jax.pmap if mode == "pmap" else jax.vmap
    values, grads = spread(f, axis_name=AXIS)(q, k)
    for rank in (0, 1):
        np.testing.assert_allclose(values[rank], golden[f"v3_loss_{t}_{rank}"], rtol=1e-5)
        np.testing.assert_allclose(grads[rank], golden[f"v3_grads_{t}_{rank}"], atol=2e-6)
    one, _ = v3_of_one_device(golden[f"v3_q_{t}"], golden[f"v3_k_{t}"], temperature)
    np.testing.assert_allclose(jnp.mean(values), one, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("N", [2, 5])
def test_v3_at_uniform_logits_is_4_t_ln_n(N, temperature):
    z = jnp.ones((N, 3))
    loss, top1 = losses.symmetric_info_nce_with_top1(z, z, z, z, temperature=temperature)
    np.testing.assert_allclose(loss, 4 * temperature * math.log(N), rtol=1e-5)
    np.testing.assert_array_equal(top1, np.zeros(N))


def test_v3_published_values():
    """N=4096: uniform at T=1 33.27; random 256-d features at T=0.2 6.69."""
    assert round(4 * math.log(4096), 2) == 33.27
    z = RNG.normal(size=(4, 1024, 256)).astype(np.float32)
    result = float(jnp.mean(losses.symmetric_info_nce(*z, temperature=0.2)))
    correction = 0.8 * (math.log(4096) - math.log(1024))
    # The mean of 2 x 1024 positives spreads by 2 T / (T sqrt(256 * 2048)) = 0.003 each way.
    assert abs(result + correction - 6.69) < 0.02


def test_v3_pairs_each_view_with_the_other():
    """Correct only for the pairs (q_a, k_b) and (q_b, k_a)."""
    a, b = jnp.eye(4), jnp.roll(jnp.eye(4), 1, axis=0)
    _, right = losses.symmetric_info_nce_with_top1(a, b, b, a, temperature=1.0)
    _, wrong = losses.symmetric_info_nce_with_top1(a, b, a, b, temperature=1.0)
    np.testing.assert_array_equal(right, np.ones(4))
    np.testing.assert_array_equal(wrong, np.zeros(4))
    _, half = losses.symmetric_info_nce_with_top1(a, b, b, b, temperature=1.0)
    np.testing.assert_array_equal(half, np.full(4, 0.5))


# Misuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((4, 8), (5, 8), (16, 8)), {}, r"of one shape \[B,D\], found queries float32 \(4, 8\)"),
        (((4, 8), (4, 8), (8, 16)), {}, r"queue \[K,D\] of the queries' D, found .*\(8, 16\)"),
        (((4, 8), (4, 8), (8,)), {}, r"queue float32 \(8,\)"),
        (((0, 8), (0, 8), (8, 8)), {}, r"queries float32 \(0, 8\)"),
        (((4, 8), (4, 8), (8, 8)), {"temperature": 0.0}, "temperature > 0, found 0.0"),
    ],
)
def test_misuse_of_info_nce_raises_with_the_shapes(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        losses.info_nce(*(jnp.ones(s) for s in shapes), **{"temperature": 0.2, **options})


def test_misuse_of_v3_raises_with_the_shapes():
    z = jnp.ones((4, 8))
    with pytest.raises(ValueError, match=r"k_b float32 \(3, 8\)"):
        losses.symmetric_info_nce(z, z, z, z[:3], temperature=1.0)
    with pytest.raises(ValueError, match="expects float arrays, found q_a int32"):
        losses.symmetric_info_nce(z.astype(jnp.int32), z, z, z, temperature=1.0)
