"""Networks on four devices equal those on one; accelerators get no branch; options of `build`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jssl import models
from jssl.errors import UserError
from jssl.models.conv import Conv
from jssl.models.norm import BatchNorm


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_networks_on_four_devices_equal_one(mode):
    """Features, running statistics and gradients of the mean loss, with global statistics."""
    settings = {"name": "resnet10", "width": 0.25, "stem": "cifar", "shortcut": "always"}
    one, four = models.build(settings), models.build(settings, axis_name="d")
    x = jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    w = jax.random.normal(jax.random.key(1), (16, 128))
    variables = jax.jit(one.init, static_argnames="train")(jax.random.key(2), x, train=True)

    def run(net, x, w, mean):
        def loss(params):
            given = {**variables, "params": params}
            (h, _), moved = net.apply(given, x, train=True, mutable=["batch_stats"])
            return mean(jnp.mean(jnp.sum(jnp.sin(h) * w, axis=1))), (h, moved["batch_stats"])

        grads, (h, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return h, stats, jax.tree.map(mean, grads)

    def device(x, w):
        return run(four, x, w, lambda v: jax.lax.pmean(v, "d"))

    h, stats, grads = jax.jit(lambda x, w: run(one, x, w, lambda v: v))(x, w)
    if mode == "pmap":
        by_device = (x.reshape(4, 4, 8, 8, 3), w.reshape(4, 4, 128))
        h4, stats4, grads4 = jax.pmap(device, axis_name="d", out_axes=(0, None, None))(*by_device)
    else:
        mesh, split, full = Mesh(jax.devices()[:4], "d"), PartitionSpec("d"), PartitionSpec()
        h4, stats4, grads4 = jax.jit(
            jax.shard_map(
                device,
                mesh=mesh,
                in_specs=(split, split),
                out_specs=(split, full, full),
                check_vma=False,
            )
        )(x, w)
    np.testing.assert_allclose(h4.reshape(h.shape), h, atol=1e-5 * float(jnp.abs(h).max()))
    for result, expected in ((stats4, stats), (grads4, grads)):
        largest = max(float(jnp.abs(v).max()) for v in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * largest)


def gradient_of_convolution():
    conv, x = Conv(16, (3, 3)), jnp.ones((2, 8, 8, 16))
    variables = conv.init(jax.random.key(0), x)
    f = jax.jit(jax.grad(lambda v, x: jnp.sum(jnp.sin(conv.apply(v, x))), (0, 1)))
    return f, variables, x


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowering_for_accelerators_has_no_conditional(platform):
    """`platform_dependent` leaves a `case` of ONE branch, around nothing but the convolution.

    The only other `case` picks the platform's number from scalar constants.
    """
    f, variables, x = gradient_of_convolution()
    text = f.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "dot_general" not in text and "stablehlo.if" not in text
    cases = re.findall(r'"stablehlo.case"\(.*?\) \(\{(.*?)\}\) : \(tensor<i32>\)', text, re.DOTALL)
    assert len(cases) == text.count("stablehlo.case") > 0
    for body in cases:
        if "}, {" in body:  # several branches: then constants alone
            operations = set(re.findall(r"stablehlo\.(\w+)", body))
            assert operations == {"constant", "return"}


def test_no_conditional_is_left_after_compilation():
    f, variables, x = gradient_of_convolution()
    assert "conditional(" not in f.lower(variables, x).compile().as_text()


@pytest.mark.parametrize("mode", ["pmap", "vmap"])
def test_groups_stay_on_their_device_and_running_statistics_agree(mode):
    """8 groups of the global 16 on 4 devices, 2 on each; the running ones are their plain means."""
    x = np.random.default_rng(0).normal(1.0, 2.0, (16, 3, 3, 5)).astype(np.float32)
    norm = BatchNorm(axis_name="d", groups=8)
    variables = BatchNorm(groups=8).init(jax.random.key(0), x, train=True)
    y, moved = (jax.pmap if mode == "pmap" else jax.vmap)(
        lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"]), axis_name="d"
    )(x.reshape(4, 4, 3, 3, 5))
    full, moved_whole = BatchNorm(groups=8).apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(x.shape), full, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            moved["batch_stats"][name][2], moved_whole["batch_stats"][name], rtol=1e-5
        )
    parts = x.reshape(8, 2, 3, 3, 5)
    mean, var = parts.mean((1, 2, 3), keepdims=True), parts.var((1, 2, 3), keepdims=True)
    expected = (parts - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y.reshape(parts.shape), expected, atol=1e-5)
    for device in range(4):
        result = moved["batch_stats"]["var"][device]
        np.testing.assert_allclose(result, 0.9 + 0.1 * var.mean(0).ravel(), rtol=1e-5)


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "vmap"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_groups_over_several_devices_equal_those_of_one(mode, unbiased):
    """2 groups of the global 16 on 4 devices: outputs, running statistics, gradients."""
    x = np.random.default_rng(0).normal(1.0, 2.0, (16, 3, 3, 5)).astype(np.float32)
    x[8:] = 3 * x[8:] - 1  # the groups differ
    w = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    options = {"groups": 2, "unbiased_running_var": unbiased}
    one, four = BatchNorm(**options), BatchNorm(axis_name="d", **options)
    variables = one.init(jax.random.key(0), x, train=True)

    def run(norm, x, w, mean):
        def loss(params, x):
            given = {**variables, "params": params}
            y, moved = norm.apply(given, x, train=True, mutable=["batch_stats"])
            return mean(jnp.mean(jnp.sin(y) * w)), (y, moved["batch_stats"])

        grads, (y, stats) = jax.grad(loss, has_aux=True, argnums=(0, 1))(variables["params"], x)
        return y, grads[1], stats, jax.tree.map(mean, grads[0])

    def device(x, w):
        return run(four, x, w, lambda v: jax.lax.pmean(v, "d"))

    split = (x.reshape(4, 4, 3, 3, 5), w.reshape(4, 4, 3, 3, 5))
    if mode == "shard_map":
        P = PartitionSpec
        mesh = Mesh(jax.devices()[:4], "d")
        specs = {"in_specs": P("d"), "out_specs": (P("d"), P("d"), P(), P()), "check_vma": False}
        result = jax.jit(jax.shard_map(device, mesh=mesh, **specs))(x, w)
    else:
        transform = jax.pmap if mode == "pmap" else jax.vmap
        result = transform(device, axis_name="d", out_axes=(0, 0, None, None))(*split)
    expected = run(one, x, w, lambda v: v)
    parts = x.reshape(2, 8, 3, 3, 5)
    mean, var = parts.mean((1, 2, 3)), parts.var((1, 2, 3)) * (72 / 71 if unbiased else 1)
    np.testing.assert_allclose(result[2]["mean"], 0.1 * mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result[2]["var"], 0.9 + 0.1 * var.mean(0), rtol=1e-5)
    # A device's gradient by its own input is of the sum over devices of their mean: four times.
    result = (result[0], result[1] / 4, *result[2:])
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.reshape(a, b.shape), b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("groups", "interleaved", "message"),
    [
        (6, False, "groups=6 of the global batch on 4 devices: .* Type .*bn_groups=4"),
        (3, False, "expected a multiple or a divisor of 4, .* Type .*bn_groups=2"),
        (12, False, "groups=12 needs a batch divisible by it; found 4, where 3 groups are to be"),
        (4, True, "interleaved groups=4 on 4 devices: such groups have members on every device"),
    ],
)
def test_indivisible_groups_are_refused(groups, interleaved, message):
    x = np.zeros((4, 4, 5), np.float32)
    norm = BatchNorm(axis_name="d", groups=groups, interleaved=interleaved)
    variables = norm.init(jax.random.key(0), x[0], train=True)  # of the state alone: no groups
    apply = lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"])  # noqa: E731
    with pytest.raises(ValueError, match=message):
        jax.vmap(apply, axis_name="d")(x)


def test_unbiased_running_variance_equals_torch():
    x = np.random.default_rng(1).normal(size=(3, 2, 2, 4)).astype(np.float32)
    norm = BatchNorm(unbiased_running_var=True)
    variables = norm.init(jax.random.key(0), x, train=True)
    stats = norm.apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)


def test_convolution_with_bias():
    x = jnp.ones((1, 4, 4, 2))
    conv = Conv(3, (1, 1), use_bias=True)
    params = conv.init(jax.random.key(0), x)["params"]
    assert {k: v.shape for k, v in params.items()} == {"kernel": (1, 1, 2, 3), "bias": (3,)}
    y = conv.apply({"params": {"kernel": params["kernel"] * 0, "bias": jnp.arange(3.0)}}, x)
    np.testing.assert_array_equal(y[0, 1, 2], [0.0, 1.0, 2.0])


def test_stage_sizes_and_unknown_keys():
    assert models.build({"name": "resnet18", "stage_sizes": (1, 2)}).blocks == (1, 2)
    assert models.build(models.DEFAULTS).blocks == (3, 4, 6, 3)
    with pytest.raises(UserError, match="Unknown key 'model.widht': did you mean 'width'"):
        models.build({"name": "resnet18", "widht": 2.0})
