"""The CPU's convolution against flax's, and the lowering for accelerators."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models.conv import Conv, conv2d

# height, width, C, features, kernel, stride, padding
SHAPES = [
    (32, 32, 3, 16, 3, 1, ((1, 1), (1, 1))),
    (33, 31, 3, 8, 7, 2, ((3, 3), (3, 3))),
    (32, 32, 3, 8, 7, 2, "SAME"),
    (16, 16, 16, 24, 3, 1, ((1, 1), (1, 1))),
    (17, 13, 16, 8, 3, 1, "SAME"),
    (16, 16, 32, 16, 3, 2, ((1, 1), (1, 1))),
    (15, 18, 16, 20, 3, 2, "SAME"),
    (4, 4, 32, 32, 3, 1, ((1, 1), (1, 1))),
    (2, 2, 16, 16, 3, 1, ((1, 1), (1, 1))),
    (8, 8, 16, 32, 1, 1, ((0, 0), (0, 0))),
    (9, 7, 16, 32, 1, 2, ((0, 0), (0, 0))),
    (8, 8, 16, 16, 3, 1, "VALID"),
]


def problem(shape, batch=3):
    h, w, C, features, k, stride, padding = shape
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (batch, h, w, C))
    options = {"kernel_init": nn.initializers.he_normal(), "padding": padding}
    own = Conv(features, (k, k), strides=stride, **options)
    stock = nn.Conv(features, (k, k), strides=stride, use_bias=False, **options)
    return own, stock, x, own.init(keys[1], x)


def value_and_gradients(net, variables, x):
    def loss(variables, x):
        y = net.apply(variables, x)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables, x)
    return y, gradients[0]["params"]["kernel"], gradients[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_flax(shape):
    own, stock, x, variables = problem(shape)
    for a, b in zip(
        value_and_gradients(own, variables, x),
        value_and_gradients(stock, variables, x),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_initial_kernels_equal_flax():
    own, stock, x, variables = problem(SHAPES[3])
    theirs = stock.init(jax.random.split(jax.random.key(0), 2)[1], x)
    assert jax.tree.structure(variables) == jax.tree.structure(theirs)
    np.testing.assert_array_equal(variables["params"]["kernel"], theirs["params"]["kernel"])


def gradient_text(platform, shape):
    own, _, x, variables = problem(shape)
    f = jax.jit(jax.grad(lambda v, x: jnp.sum(jnp.sin(own.apply(v, x))), (0, 1)))
    return f.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[5], SHAPES[9]], ids=str)
def test_accelerators_get_the_plain_convolution(platform, shape):
    text = gradient_text(platform, shape)
    # forward, gradient of the input, gradient of the kernel: and nothing of the CPU's
    assert text.count("stablehlo.convolution") == 3
    for word in ("dot_general", "stablehlo.while", "stablehlo.concatenate"):
        assert word not in text


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[9]], ids=str)
def test_the_cpu_gets_matrix_products(shape):
    text = gradient_text("cpu", shape)
    assert "dot_general" in text


@pytest.mark.parametrize("mode", ["vmap", "pmap", "remat", "bfloat16"])
def test_it_works_under_transformations(mode):
    own, stock, x, variables = problem(SHAPES[3], batch=8)

    def gradient(net, x):
        return jax.grad(lambda v: jnp.sum(jnp.sin(net.apply(v, x)).astype(jnp.float32)))(variables)

    expected = gradient(stock, x)["params"]["kernel"]
    if mode == "remat":
        result = jax.grad(jax.checkpoint(lambda v: jnp.sum(jnp.sin(own.apply(v, x)))))(variables)[
            "params"
        ]["kernel"]
    elif mode == "bfloat16":
        half = Conv(24, (3, 3), padding=SHAPES[3][-1], dtype=jnp.bfloat16)
        result = gradient(half, x)["params"]["kernel"]
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, atol=0.05 * np.abs(expected).max())
        return
    else:
        spread = jax.vmap if mode == "vmap" else jax.pmap
        parts = spread(lambda x: gradient(own, x))(x.reshape(4, 2, *x.shape[1:]))
        result = parts["params"]["kernel"].sum(0)
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


def test_one_pixel_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    y = conv2d(x, kernel, 1, ((0, 0), (0, 0)))
    assert float(y[0, 0, 0, 0]) == sum(i * i for i in range(9))
