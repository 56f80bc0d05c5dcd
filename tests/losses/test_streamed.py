"""NT-Xent in blocks: equal to the dense form, in memory below quadratic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.losses import contrastive

T = 0.1


def embeddings(count, seed=0):
    a, b = np.random.default_rng(seed).normal(size=(2, count, 16)).astype(np.float32)
    return a, a + 2 * b  # some positives are the nearest, and some are not


def loss_top1_and_grads(a, b, **options):
    def mean(a, b):
        loss, top1 = contrastive.nt_xent_with_top1(a, b, temperature=T, **options)
        return jnp.mean(loss * (1.0 + jnp.arange(len(loss)))), (loss, top1)

    (_, (loss, top1)), grads = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(a, b)
    return loss, top1, *grads


@pytest.fixture
def in_blocks(monkeypatch):
    def use(block, count):
        monkeypatch.setattr(contrastive, "_HELD", 0)
        monkeypatch.setattr(contrastive, "_BLOCK", block * 4 * count)

    return use


@pytest.mark.parametrize("block", [7, 20])  # with padding, exact
def test_values_and_gradients_equal_the_dense_ones(in_blocks, block):
    a, b = embeddings(20)
    dense = loss_top1_and_grads(a, b)
    assert 0 < float(np.mean(dense[1])) < 1
    in_blocks(block, 20)
    for result, expected in zip(loss_top1_and_grads(a, b), dense, strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_sharded_equals_dense_on_the_whole_batch(in_blocks):
    """Values, and the gradients of the mean over devices, through gathered embeddings too."""
    a, b = embeddings(24, seed=1)

    def full(a, b):
        loss = contrastive.nt_xent(a, b, temperature=T)
        return jnp.mean(loss), loss

    (_, expected), gradients = jax.value_and_grad(full, (0, 1), has_aux=True)(a, b)
    in_blocks(5, 6)

    def split(a, b):
        local = functools.partial(contrastive.nt_xent, temperature=T, axis_name="i")
        loss = jax.vmap(local, axis_name="i")(a.reshape(4, 6, 16), b.reshape(4, 6, 16))
        return jnp.mean(loss), loss

    (_, result), found_gradients = jax.jit(jax.value_and_grad(split, (0, 1), has_aux=True))(a, b)
    np.testing.assert_allclose(result.reshape(24), expected, rtol=0, atol=1e-5)
    for one, other in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
        assert np.abs(other).max() > 1e-2


def test_collapsed_embeddings_in_closed_form(in_blocks):
    in_blocks(3, 8)
    z = jnp.ones((8, 16))
    loss, top1, *grads = loss_top1_and_grads(z, z)
    np.testing.assert_allclose(loss, np.log(15), atol=1e-5)
    np.testing.assert_array_equal(top1, 0.0)
    np.testing.assert_allclose(grads[0], 0.0, atol=1e-5)


def temporaries(count):
    z = jax.ShapeDtypeStruct((count, 128), jnp.float32)

    def mean(a, b):
        return jnp.mean(contrastive.nt_xent(a, b, temperature=T))

    compiled = jax.jit(jax.grad(mean, (0, 1))).lower(z, z).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_at_32768_is_below_quadratic():
    """One device holds the whole batch: its logits alone would be 4 N^2 float32, 16 GiB."""
    half, full = temporaries(16_384), temporaries(32_768)
    assert full < 1.5 * half + 2**20
    assert full < 2**30
