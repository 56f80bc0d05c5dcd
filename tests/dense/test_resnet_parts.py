"""A ResNet in two parts, and with a dilated last group; torchvision's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.test_families import GOLDEN, imported

from jssl import models
from jssl.convert.family import from_torch
from jssl.convert.torchvision import torchvision_name
from jssl.models.conv import Conv
from jssl.models.resnet import make_resnet
from jssl.run.checkpoint import flat_leaves

recorder = imported("record_torchvision_resnet")
RECORDED = np.load(GOLDEN / "dense_torchvision.npz")


def drawn(net, x):
    """Variables with torchvision's drawn values."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, False))

    def value(path, leaf):
        keys = [k.key for k in path][1:]
        shape = leaf.shape
        shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
        array = recorder.weights_of(torchvision_name(".".join(keys)), shape)
        return jnp.asarray(from_torch(".".join(keys), array))

    return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture(scope="module")
def resnet50():
    x = jnp.asarray(RECORDED["dilated_images"].transpose(0, 2, 3, 1))
    net = make_resnet("resnet50", last_dilation=2)
    return net, drawn(net, x), x


def close(result, expected):
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_dilated_group_keeps_the_maps_size(resnet50):
    net, variables, x = resnet50
    features, named = jax.jit(lambda v, x: net.apply(v, x, False))(variables, x)
    assert named["block_group4"].shape[1:3] == named["block_group3"].shape[1:3] == (5, 5)
    close(named["block_group3"].sum(-1), RECORDED["trunk_sum"])
    close(named["block_group4"].sum(-1), RECORDED["dilated_sum"])
    close(features, RECORDED["dilated_mean"])


def test_two_parts_with_the_parameters_of_the_whole(resnet50):
    net, variables, x = resnet50
    trunk, head = net.clone(groups=(1, 2, 3)), net.clone(groups=(4,))
    whole = {name: leaf.shape for name, leaf in flat_leaves(variables).items()}
    maps = jax.eval_shape(lambda: trunk.init(jax.random.key(0), x, False))
    assert not [name for name in flat_leaves(maps) if "group4" in name]
    _, named = jax.jit(lambda v, x: trunk.apply(v, x, False))(variables, x)
    features, _ = jax.jit(lambda v, x: head.apply(v, x, False))(variables, named["block_group3"])
    close(features, RECORDED["dilated_mean"])
    own = jax.eval_shape(lambda: head.init(jax.random.key(0), named["block_group3"], False))
    both = {**flat_leaves(maps), **flat_leaves(own)}
    assert {name: leaf.shape for name, leaf in both.items()} == whole


@pytest.mark.parametrize(("stride", "channels"), [(1, 3), (1, 20), (2, 20)])
def test_gradients_of_a_dilated_convolution(stride, channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 11, channels), np.float32))
    options = {"strides": stride, "padding": ((2, 2), (2, 2))}
    own = Conv(5, (3, 3), dilation=2, **options)
    variables = own.init(jax.random.key(0), x)
    stock = models.conv.nn.Conv(5, (3, 3), kernel_dilation=2, use_bias=False, **options)

    def loss(net):
        return lambda v, x: jnp.sum(jnp.sin(net.apply(v, x)))

    for argument in (0, 1):
        result = jax.grad(loss(own), argument)(variables, x)
        expected = jax.grad(loss(stock), argument)(variables, x)
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
