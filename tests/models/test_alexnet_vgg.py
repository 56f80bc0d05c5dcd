"""DeepCluster's AlexNet and VGG-16: published sizes, torch's recorded outputs, Sobel by scipy."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import ROOT

from jssl import models
from jssl.errors import UserError
from jssl.models.plain import sobel

spec = importlib.util.spec_from_file_location(
    "record_plain", ROOT / "tests/reference/record_efficientnet_plain.py"
)
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)
GOLDEN = ROOT / "tests/golden/efficientnet_plain_torch.npz"
SOBEL_WEIGHTS = (3 + 1) + (18 + 2)  # the official Sobel filter is two convolutions with biases


def shapes_of(net, size):
    x = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, train=True))


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(net, variables, x):
    return net.apply(variables, x, train=False)


@pytest.mark.parametrize(
    ("name", "with_sobel", "published"),  # the recipe's, with the top layer of k = 10,000
    [
        ("alexnet", True, 99_242_504),
        ("alexnet", False, 99_254_096),
        ("vgg16", True, 175_238_440),
        ("vgg16", False, 175_238_992),
    ],
)
def test_parameter_counts_are_the_published_ones(name, with_sobel, published):
    net = models.build({"name": name, "sobel": with_sobel})
    (features, _), variables = shapes_of(net, 224)
    assert features.shape == (1, 4096) and features.dtype == jnp.float32
    top = 4096 * 10_000 + 10_000
    assert count(variables["params"]) + top + with_sobel * SOBEL_WEIGHTS == published


def test_maps_at_224_pixels_are_the_published_ones():
    (_, named), _ = shapes_of(models.build({"name": "alexnet"}), 224)
    sides = [named[f"conv{i}"].shape[1] for i in range(1, 6)]
    assert sides == [55, 27, 13, 13, 13]
    assert [named[f"conv{i}"].shape[3] for i in range(1, 6)] == [96, 256, 384, 384, 256]
    assert named["pooled"].shape == (1, 6, 6, 256) and named["fc6"].shape == (1, 4096)
    (_, named), _ = shapes_of(models.build({"name": "vgg16"}), 224)
    sides = [named[f"conv{i}"].shape[1] for i in range(1, 14)]
    assert sides == [224] * 2 + [112] * 2 + [56] * 3 + [28] * 3 + [14] * 3
    assert named["pooled"].shape == (1, 7, 7, 512)


def test_sobel_equals_scipy():
    """Zeros around the grey image; scipy's kernels point the other way."""
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 3)).astype(np.float32)
    result = sobel(x)
    assert result.shape == (2, 9, 7, 2)
    for image, edges in zip(x, result, strict=True):
        grey = image.mean(-1)
        for channel, axis in ((0, 1), (1, 0)):
            expected = -scipy.ndimage.sobel(grey, axis=axis, mode="constant")
            np.testing.assert_allclose(edges[..., channel], expected, atol=1e-5)


def torch_variables(net, name, side):
    """Seeded weights by the names of the recorder's torch modules."""
    places, at = {}, 0
    for i, layer in enumerate(net.layers, start=1):
        places[f"conv{i}"], places[f"bn{i}"] = f"features.{at}", f"features.{at + 1}"
        at += 3 + layer.pooled
    places |= {"fc6": "classifier.0", "fc7": "classifier.2"}
    words = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

    def fill(path, leaf):
        _, module, kind = (p.key for p in path)
        torch_name = f"{name}.{places[module]}.{words.get(kind, kind)}"
        shape = leaf.shape
        if kind != "kernel":
            return recorder.weights_of(torch_name, shape)
        if len(shape) == 4:
            h, w, i, o = shape
            return recorder.weights_of(torch_name, (o, i, h, w)).transpose(2, 3, 1, 0)
        kernel = recorder.weights_of(torch_name, shape[::-1])
        if module == "fc7":
            return kernel.T
        # torch flattens [C,h,w], we [h,w,C]
        kernel = kernel.reshape(shape[1], -1, 2, 2).transpose(2, 3, 1, 0)
        return kernel.reshape(shape)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(net, side)[1])


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_forward_passes_equal_torch(name):
    golden = np.load(GOLDEN)
    side, width = recorder.PLAIN[name]
    net = models.build({"name": name, "width": width, "sobel": True, "dropout": 0.0})
    variables = torch_variables(net, name, side)
    images = recorder.images_of(side).transpose(0, 2, 3, 1)
    expected = golden[f"{name}_sobel"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(sobel(images)[:1, :16, :16], expected, atol=1e-5)
    features, named = evaluate(net, variables, images)
    for i in range(1, len(net.layers) + 1):
        expected = golden[f"{name}_conv{i}"]
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(named[f"conv{i}"].sum((1, 2)), expected, atol=tolerance)
    expected = golden[f"{name}_eval"]
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    assert features.min() < 0  # before the last ReLU
    (features, _), _ = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    # Two images leave 8 to 50 values for the last statistics: they amplify rounding.
    expected = golden[f"{name}_train"]
    np.testing.assert_allclose(features, expected, atol=1e-3 * np.abs(expected).max())


@pytest.fixture(scope="module")
def small():
    net = models.build({"name": "alexnet", "width": 1 / 16})
    x = jax.random.normal(jax.random.key(1), (1, 63, 63, 3))
    variables = jax.jit(lambda: net.init(jax.random.key(0), x, train=True))()
    return net, variables, jnp.repeat(x, 4, axis=0)


def test_dropout_is_per_example_and_only_in_training(small):
    net, variables, x = small

    @jax.jit
    def run(rows):
        rngs = {"dropout": jax.random.key(2)}
        return net.apply(variables, x, True, rows, rngs=rngs, mutable=["batch_stats"])[0][0]

    rows = jnp.arange(4)
    first = run(rows)
    assert len(np.unique(np.round(first, 6), axis=0)) == 4
    np.testing.assert_allclose(run(rows[::-1])[::-1], first, atol=1e-6)
    plain = evaluate(net.clone(dropout=0.0), variables, x)[0]
    np.testing.assert_array_equal(evaluate(net, variables, x)[0], plain)
    with pytest.raises(UserError, match=r"rngs=\{'dropout': key\}"):
        net.apply(variables, x, True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"each of 4 images, found \(3,\)"):
        run(jnp.arange(3))


def test_initial_values(small):
    _, variables, _ = small
    params = variables["params"]
    kernel = params["conv2"]["kernel"]  # [5,5,6,16]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (25 * 16)), rtol=0.06)
    np.testing.assert_allclose(np.std(params["fc7"]["kernel"]), 0.01, rtol=0.02)
    assert all(not np.any(params[name]["bias"]) for name in ("conv1", "bn3", "fc6"))
    assert params["conv1"]["kernel"].shape[2] == 2


def test_no_gradient_passes_the_sobel_filter():
    g = jax.grad(lambda x: jnp.sum(jnp.sin(sobel(x))))(jnp.ones((1, 4, 4, 3)))
    assert not np.any(g)


def test_bfloat16_keeps_float32_parameters_and_features(small):
    net, variables, _ = small
    x = jax.random.normal(jax.random.key(3), (2, 63, 63, 3))
    low = net.clone(dtype=jnp.bfloat16)
    features, named = evaluate(low, variables, x)
    assert features.dtype == jnp.float32 and named["conv1"].dtype == jnp.bfloat16
    exact = evaluate(net, variables, x)[0]
    np.testing.assert_allclose(features, exact, atol=0.05 * np.abs(exact).max())


def test_images_too_small_for_the_pools_are_refused():
    net = models.build({"name": "alexnet"})
    with pytest.raises(UserError, match="32x32 are 1x1 at conv5, too small for its 3x3 max-pool"):
        shapes_of(net, 32)
