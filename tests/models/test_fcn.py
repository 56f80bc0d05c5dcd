"""Segmentation networks against torch's, see tests/reference/record_rcnn.py, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.test_families import GOLDEN, imported

from jssl import dense
from jssl.convert.family import from_torch
from jssl.convert.torchvision import torchvision_name
from jssl.errors import UserError
from jssl.models import fcn, make_alexnet, make_vgg16
from jssl.models.resnet import make_resnet

recorder = imported("record_rcnn")
RECORDED = np.load(GOLDEN / "rcnn_torchvision.npz")
LAST = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@pytest.fixture(scope="module")
def dilated():
    resnet = make_resnet("resnet50", stage_sizes=recorder.BLOCKS, width=1 / recorder.DIVISOR)
    net = fcn.make_dilated_fcn(resnet, recorder.CLASSES, features=12, normalize="none")
    images = jnp.asarray(RECORDED["fcn_image"][None] / np.float32(32))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, False))

    def value(path, leaf):
        keys = [k.key for k in path][1:]
        if keys[0] == "encoder":
            name, shape = ".".join(keys[1:]), leaf.shape
            shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
            array = recorder.weights_of(torchvision_name(name), shape)
            return jnp.asarray(from_torch(name, array))
        if keys[1].startswith("bn"):
            name = f"segmentation.{keys[1]}.{LAST[keys[2]]}"
            return jnp.asarray(recorder.weights_of(name, leaf.shape))
        return jnp.asarray(recorder.value_of(".".join(keys), leaf.shape))

    return net, jax.tree_util.tree_map_with_path(value, shapes), images


def test_the_dilated_network_is_torchs_on_any_canvas(dilated):
    net, variables, images = dilated
    h, w = images.shape[1:3]
    canvas = np.full((1, 64, 100, 3), 9.0, np.float32)
    canvas[:, :h, :w] = images
    logits = jax.jit(lambda v, x: net.apply(v, x, False))(variables, images)
    expected = RECORDED["fcn_logits"]
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits[0, ::2, ::2], expected, atol=limit)
    sizes = jnp.array([[h, w]])
    padded = jax.jit(lambda v, x: net.apply(v, x, False, sizes))(variables, canvas)
    assert padded.shape == (1, 64, 100, 5) and padded.dtype == jnp.float32
    np.testing.assert_allclose(padded[:, :h, :w], logits, atol=limit)
    total, count = dense.pixel_loss(logits[0], jnp.asarray(RECORDED["fcn_label"]))
    assert count == np.sum(RECORDED["fcn_label"] != 255)
    np.testing.assert_allclose(total / count, RECORDED["fcn_loss"], rtol=1e-5)


def test_two_devices_compute_what_one_does():
    """They have other numbers of labelled pixels."""
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (2, 32, 48, 3)).astype(np.uint8),
             "label": rng.integers(0, 3, (2, 32, 48)).astype(np.uint8)}  # fmt: skip
    batch["label"][0, :20] = 255
    nets = [fcn.make_dilated_fcn(
        make_resnet("resnet10", stage_sizes=(1, 1), width=1 / 8, axis_name=axis), 3, features=4
    ) for axis in (None, "batch")]  # fmt: skip
    variables = jax.jit(nets[0].init, static_argnums=2)(jax.random.key(0), batch["image"], False)
    assert nets[0].stride() == 4
    key = jax.random.key(0)

    def grad(net, batch):
        def loss(params):
            return fcn.segmentation_loss(net, {**variables, "params": params}, batch, key)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, (metrics, stats)), grads = jax.jit(lambda b: grad(nets[0], b))(batch)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert any(np.any(g) for g in jax.tree.leaves(grads["encoder"]))
    each = jax.tree.map(lambda x: x[:, None], batch)
    (losses, (both, changed)), _ = jax.jit(jax.vmap(lambda b: grad(nets[1], b), axis_name="batch"))(
        each
    )
    np.testing.assert_allclose(losses.mean(), loss, rtol=1e-5)
    np.testing.assert_allclose(both["pixel_accuracy"].mean(), metrics["pixel_accuracy"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 17), (40, 33), (3, 4)])
def test_bilinear_resizing(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7, 2), np.float32))
    expected = jax.image.resize(x, (*shape, 2), "bilinear", antialias=False)
    np.testing.assert_allclose(dense.resize_bilinear(x, shape), expected, atol=1e-5)
    padded = jnp.pad(x, ((0, 2), (0, 1), (0, 0)), constant_values=50.0)
    result = dense.resize_bilinear(padded, (50, 50), extent=jnp.array([5, 7]),
                                   size=jnp.array(shape))  # fmt: skip
    np.testing.assert_allclose(result[: shape[0], : shape[1]], expected, atol=1e-5)


def test_the_bilinear_kernel_by_hand():
    kernel = dense.bilinear_kernel(63)
    assert kernel[31] == 1 and kernel[0] == kernel[62] == np.float32(1 / 32)
    np.testing.assert_allclose(kernel[:31] + kernel[32:], 1)  # of two neighbouring cells
    np.testing.assert_allclose(dense.bilinear_kernel(4), [0.25, 0.75, 0.75, 0.25])
    x = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    expected = np.zeros((2 * 32 + 63, 32 + 63, 2))
    for i in range(3):
        for j in range(2):
            window = np.outer(kernel, kernel)[..., None] * x[i, j]
            expected[32 * i : 32 * i + 63, 32 * j : 32 * j + 63] += window
    result = dense.deconvolve_bilinear(jnp.asarray(x), (100, 70), side=63, stride=32, offset=18)
    np.testing.assert_allclose(result, expected[18:118, 18:88], atol=1e-6)
    with pytest.raises(ValueError, match="makes 127 pixels of 3 cells, expected at least 128"):
        dense.deconvolve_bilinear(jnp.asarray(x), (110, 70), side=63, stride=32, offset=18)


def test_the_offset_puts_each_cell_at_the_centre_of_what_it_sees():
    """The first cell's field, from the layers; its logits are largest at row 31 - offset."""
    net = fcn.make_fcn32s(make_alexnet(), 21)
    centre, step = -net.padding, 1.0
    windows = []
    for i, layer in enumerate(net.layers):
        windows.append((layer.kernel, layer.stride, layer.padding if i else 0))
        windows += [(net.pool, 2, 0)] if layer.pooled else []
    for side, stride, padding in [*windows, (net.cells, 1, 0)]:
        centre += step * ((side - 1) / 2 - padding)
        step *= stride
    assert (centre, step) == (31 - 18, 32)


@pytest.fixture(scope="module")
def alexnet():
    net = make_alexnet(width=1 / 32, dropout=0.5)
    images = jnp.asarray(np.random.default_rng(0).random((1, 224, 224, 3), np.float32))
    variables = jax.jit(net.init, static_argnums=2)(jax.random.key(0), images, False)
    # Large enough that the dense layers do not lose the pictures in their biases.
    for name in ("fc6", "fc7"):
        variables["params"][name]["kernel"] *= 10
    return net, variables, images


def test_dense_layers_become_convolutions(alexnet, monkeypatch):
    """At the padding and the size of pre-training there is one cell, of the same features."""
    net, variables, images = alexnet
    monkeypatch.setattr(fcn, "deconvolve_bilinear", lambda x, shape, **options: x)
    own = fcn.make_fcn32s(net, 4, padding=2, normalize="none")
    drawn = jax.jit(own.init, static_argnums=2)(jax.random.key(1), images, False)
    joined = fcn.with_plain(drawn, variables)
    assert joined["params"]["fc6"]["kernel"].shape == (6, 6, 8, 128)
    features, _ = jax.jit(lambda v, x: net.apply(v, x, False))(variables, images)

    @jax.jit
    def run(variables, images):
        _, seen = own.apply(variables, images, False, mutable=["intermediates"],
                            capture_intermediates=True)  # fmt: skip
        return seen["intermediates"]["fc7"]["__call__"][0]

    fc7 = run(joined, images)
    assert fc7.shape == (1, 1, 1, 128)
    np.testing.assert_allclose(fc7[0, 0, 0], features[0], atol=1e-4 * np.abs(features).max())
    small = jax.eval_shape(lambda: make_alexnet(width=1 / 16).init(
        jax.random.key(0), images, False))  # fmt: skip
    with pytest.raises(UserError, match="does not fit: its .*"):
        fcn.with_plain(drawn, small)


@pytest.mark.parametrize("shape", [(64, 97), (131, 75)])
def test_every_pixel_has_logits(alexnet, shape):
    net = fcn.make_fcn32s(alexnet[0], 4)
    images = jnp.zeros((1, *shape, 3), jnp.uint8)
    logits = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), images, False))[0]
    assert logits.shape == (1, *shape, 4) and logits.dtype == jnp.float32


def test_training_starts_at_the_loss_of_chance_and_drops_by_the_key(alexnet):
    net = fcn.make_fcn32s(alexnet[0], 4)
    rng = np.random.default_rng(0)
    batch = {"image": jnp.asarray(rng.integers(0, 256, (1, 40, 50, 3)), jnp.uint8),
             "label": jnp.asarray(rng.integers(0, 4, (1, 40, 50))).at[:, :9].set(255)}  # fmt: skip
    drawn = jax.jit(net.init, static_argnums=2)(jax.random.key(1), batch["image"], False)
    assert not np.any(drawn["params"]["score"]["kernel"])
    variables = fcn.with_plain(drawn, alexnet[1])

    @jax.jit
    def grad(variables, key):
        def loss(params):
            both = {**variables, "params": params}
            return fcn.segmentation_loss(net, both, batch, key)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, (metrics, stats)), grads = grad(variables, jax.random.key(0))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-5)
    assert 0 <= metrics["pixel_accuracy"] <= 1
    assert np.any(grads["score"]["kernel"]) and not np.any(grads["fc7"]["kernel"])
    assert np.any(stats["bn5"]["mean"] != variables["batch_stats"]["bn5"]["mean"])
    variables["params"]["score"]["kernel"] = jnp.ones((1, 1, 128, 4)).at[..., 0].set(-1.0)
    first, again, other = (float(grad(variables, jax.random.key(i))[0][0]) for i in (0, 0, 1))
    assert first == again != other


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="model.name=alexnet"):
        fcn.make_fcn32s(make_vgg16(), 21)
    with pytest.raises(UserError, match="found 'ln' and 1"):
        fcn.make_dilated_fcn(make_resnet("resnet18", norm="ln"), 21)
