"""The dVAE's networks: OpenAI's parameter counts, initialisers, shapes, relaxed samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.errors import UserError
from jssl.models import dvae


def test_parameter_counts_and_shapes_equal_openai():
    """53,786,240 and 43,829,766 of dall_e; 112 px become 14 x 14 tokens."""
    images, key = jnp.zeros((1, 112, 112, 3)), jax.random.key(0)
    (logits, features), variables = jax.eval_shape(
        lambda: dvae.Encoder().init_with_output(key, images)
    )
    assert logits.shape == (1, 14, 14, 8192) and features.shape == (1, 14, 14, 2048)
    out, decoder = jax.eval_shape(
        lambda: dvae.Decoder().init_with_output(key, jnp.zeros((1, 14, 14, 8192)))
    )
    assert out.shape == (1, 112, 112, 6)
    counts = [
        sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) for tree in (variables, decoder)
    ]
    assert counts == [53_786_240, 43_829_766]


def test_a_small_encoder_equals_a_naive_loop():
    """One group of one block on 3 x 3 pixels: conv 7, then x + (conv(relu))^4 / 1."""
    net = dvae.Encoder(vocabulary=5, hidden=4, groups=1, blocks=1)
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 3)).astype(np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    params = jax.tree.map(np.asarray, variables["params"])
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases that are not 0

    def conv(x, p):
        k = p["kernel"].shape[0]
        padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        y = np.zeros((3, 3, p["kernel"].shape[-1]))
        for i, j in np.ndindex(3, 3):
            patch = padded[i : i + k, j : j + k]
            y[i, j] = np.einsum("abc,abcd->d", patch, p["kernel"]) + p["bias"]
        return y

    y = conv(x[0], params["input"])
    z = y
    for i in range(1, 5):
        z = conv(np.maximum(z, 0), params["group_1_block_1"][f"conv_{i}"])
    expected = conv(np.maximum(y + z, 0), params["output"])
    logits, _ = jax.jit(net.apply)({"params": params}, x)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_initialisers_and_the_gain_of_residual_branches():
    key = jax.random.key(0)
    kernel = dvae._INIT(key, (3, 3, 64, 64))
    np.testing.assert_allclose(np.std(kernel), 1 / np.sqrt(64 * 9), rtol=0.02)
    assert np.abs(kernel).max() > 3 / np.sqrt(64 * 9)  # not truncated
    block = dvae._Block(8, (3, 3, 3, 1), 1 / 64, jnp.float32)  # of 4 groups of 2 blocks
    x = jax.random.normal(key, (1, 4, 4, 8))
    variables = block.init(key, x)
    ones = dvae._Block(8, (3, 3, 3, 1), 1.0, jnp.float32)
    branch = ones.apply(variables, x) - x
    np.testing.assert_allclose(block.apply(variables, x) - x, branch / 64, atol=1e-5)


def test_map_and_unmap_pixels():
    x = jnp.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(dvae.map_pixels(x), 0.8 * x + 0.1, atol=1e-6)
    np.testing.assert_allclose(dvae.unmap_pixels(dvae.map_pixels(x)), x, atol=1e-6)


def test_relaxed_samples_have_the_softmax_distribution():
    logits = jnp.array([0.0, 1.0, 2.0])
    many = jnp.broadcast_to(logits[None], (20_000, 3))
    z = np.asarray(dvae.gumbel_softmax(jax.random.key(1), many, temperature=0.5))
    np.testing.assert_allclose(z.sum(axis=1), 1.0, atol=1e-5)
    share = np.bincount(z.argmax(axis=1), minlength=3) / len(z)
    # four standard errors of a share of 20,000
    np.testing.assert_allclose(share, jax.nn.softmax(logits), atol=4 * 0.5 / np.sqrt(20_000))
    cold = dvae.gumbel_softmax(jax.random.key(1), many, temperature=1e-4)
    np.testing.assert_array_equal(np.argmax(cold, axis=1), z.argmax(axis=1))
    assert np.mean(np.max(cold, axis=1) > 0.999) > 0.99
    hot = dvae.gumbel_softmax(jax.random.key(1), many, temperature=1e4)
    np.testing.assert_allclose(hot, 1 / 3, atol=1e-3)


def test_indivisible_pictures_are_refused():
    with pytest.raises(UserError, match="multiples of 8, found 20x24"):
        dvae.Encoder(hidden=4).init(jax.random.key(0), jnp.zeros((1, 20, 24, 3)))
