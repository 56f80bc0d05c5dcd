"""AlexNet-half: parameters counted by hand and shapes of the official network at 224 pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import models
from jssl.types import Array

# kernels 11*11*C*48, 5*5*48*128, 9*128*192, 9*192*192, 9*192*128; dense with biases; BN pairs
CONVS = {1: 121 * 48, 2: 25 * 48 * 128, 3: 9 * 128 * 192, 4: 9 * 192 * 192, 5: 9 * 192 * 128}
DENSE = (6 * 6 * 128 * 2048 + 2048) + (2048 * 2048 + 2048)
NORMS = 2 * (48 + 128 + 192 + 192 + 128 + 2048 + 2048)


@pytest.mark.parametrize("channels", [1, 2])
def test_parameters_and_shapes(channels):
    net = models.build({"name": "alexnet_half"})
    image = jax.ShapeDtypeStruct((2, 224, 224, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: net.init(k, x, train=True), key, image)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    convs = sum(CONVS.values()) + (channels - 1) * CONVS[1]
    assert count == convs + DENSE + NORMS
    assert not any("bias" in variables["params"][f"conv{i}"] for i in range(1, 6))
    features, named = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, image)
    assert features.shape == named["fc6"].shape == (2, 2048)
    shapes = {1: (27, 48), 2: (13, 128), 3: (13, 192), 4: (13, 192), 5: (6, 128)}
    for i, (side, width) in shapes.items():
        assert named[f"conv{i}"].shape == (2, side, side, width)


def test_first_layer_is_convolution_normalisation_relu_and_pool():
    net = models.build({"name": "alexnet_half"})
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 63, 63, 1)).astype(np.float32)
    variables = jax.jit(lambda k, x: net.init(k, x, train=False))(jax.random.key(0), image)
    _, named = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
    kernel: Array = np.asarray(variables["params"]["conv1"]["kernel"], np.float64)
    padded = np.pad(np.float64(image[0, ..., 0]), 2)
    out = np.zeros((15, 15, 48))
    for y in range(15):
        for x in range(15):
            patch = padded[4 * y : 4 * y + 11, 4 * x : 4 * x + 11]
            out[y, x] = np.einsum("ij,ijc->c", patch, kernel[:, :, 0])
    out = np.maximum(out / np.sqrt(1 + 1e-5), 0)
    pooled = np.zeros((7, 7, 48))
    for y in range(7):
        for x in range(7):
            pooled[y, x] = out[2 * y : 2 * y + 3, 2 * x : 2 * x + 3].max(axis=(0, 1))
    np.testing.assert_allclose(named["conv1"][0], pooled, atol=1e-5)
    bound = 1 / 11  # 1 / sqrt(fan in)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
