"""Attention, GELU and dense layers of the ViT: values, gradients, and what each platform gets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import attention as fast
from jssl.models.conv import plain_convolutions
from jssl.models.vit import make_vit


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


QKV, BIAS = random(2, 17, 3, 3, 8) * 2, random(1, 3, 17, 17, seed=1)
PROBLEMS = {
    "attention": (fast.attention, (QKV,)),
    "attention with bias": (fast.attention, (QKV, BIAS)),
    "gelu": (fast.gelu, (random(2, 5, 7) * 4,)),
    "dense": (
        lambda x, kernel: fast.dot_rows(x, kernel, (((2,), (0,)), ((), ()))),
        (random(2, 5, 7), random(7, 3, seed=1)),
    ),
}


def value_and_gradients(f, arguments):
    def loss(*arguments):
        y = f(*arguments)
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    g = jax.value_and_grad(loss, tuple(range(len(arguments))), has_aux=True)
    (_, y), gradients = jax.jit(g)(*arguments)
    return [y, *gradients]


def of_the_plain_form(f, arguments):
    with plain_convolutions():
        return value_and_gradients(lambda *a: f(*a), arguments)


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_gradients_equal_the_plain_form(name):
    f, arguments = PROBLEMS[name]
    for a, b in zip(
        value_and_gradients(f, arguments), of_the_plain_form(f, arguments), strict=True
    ):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", PROBLEMS)
def test_bfloat16_takes_the_plain_form(name):
    f, arguments = PROBLEMS[name]
    half = tuple(a.astype(jnp.bfloat16) for a in arguments)
    for a, b in zip(value_and_gradients(f, half), of_the_plain_form(f, half), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b)


def test_attention_of_the_plain_form_is_that_of_jax():
    q, k, v = jnp.moveaxis(QKV, 2, 0)
    expected = jax.nn.dot_product_attention(q, k, v, bias=BIAS)
    np.testing.assert_allclose(fast.attention(QKV, BIAS), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["vmap", "pmap", "remat"])
def test_it_works_under_transformations(mode):
    x = random(4, 2, 5, 3, 2, 4)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(fast.gelu(fast.attention(x)))))(x)

    def recomputed(x):
        return jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(fast.gelu(fast.attention(x))))))(x)

    f = {"vmap": jax.vmap(gradient), "pmap": jax.pmap(gradient), "remat": recomputed}[mode]
    expected = jnp.stack([gradient(part) for part in x])
    result = jnp.stack([f(part) for part in x]) if mode == "remat" else f(x)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def text_of_a_step(platform, plain=False):
    net, x = make_vit("vit_tiny", depth=1), jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, False))

    def loss(variables):
        return jnp.sum(net.apply(variables, x, True)[0])

    def lowered():
        f = jax.jit(lambda v: jax.value_and_grad(loss)(v))
        return f.trace(variables).lower(lowering_platforms=(platform,)).as_text()

    if plain:
        with plain_convolutions():
            return lowered()
    return lowered()


def operations(text):
    words = ("dot_general", "erf", "erfc", "exponential", "optimization_barrier", "divide", "while")
    words = [f"stablehlo.{w}" for w in words] + ["chlo.erf ", "chlo.erfc "]
    return {word: text.count(word) for word in words}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_plain_operations(platform):
    text = text_of_a_step(platform)
    assert operations(text) == operations(text_of_a_step(platform, plain=True))
    assert "optimization_barrier" not in text
    assert "optimization_barrier" in text_of_a_step("cpu")


def test_no_conditional_is_left_after_compilation():
    f, arguments = PROBLEMS["attention with bias"]
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a)))))
    assert "conditional(" not in gradient.lower(*arguments).compile().as_text()


def test_dense_layers_have_the_parameters_of_flax():
    net, x = make_vit("vit_tiny", depth=1), jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, False))["params"]["block0"]
    assert isinstance(nn.Dense(1, dot_general=fast.dot_rows), nn.Dense)
    assert shapes["qkv"]["kernel"].shape == (192, 576)
