"""ResNets against torchvision's recorded outputs, published sizes, and worked padding."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from jssl import models
from jssl.errors import UserError

spec = importlib.util.spec_from_file_location(
    "record_torchvision_resnet", ROOT / "tests/reference/record_torchvision_resnet.py"
)
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)


def shapes_of(size=64, **switches):
    net = models.build({"name": "resnet50", **switches})
    x = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's tables, with the classifier of 1000 classes
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published):
    features = 512 if name in ("resnet18", "resnet34") else 2048
    assert count(shapes_of(name=name)["params"]) + features * 1000 + 1000 == published


def test_resnet200_has_the_64_7_million_of_timm():
    assert count(shapes_of(name="resnet200")["params"]) + 2048 * 1000 + 1000 == 64_673_832


@pytest.mark.parametrize(("width", "millions"), [(1, 24), (2, 94), (4, 375)])
def test_widths_have_the_millions_of_simclrs_table(width, millions):
    assert round(count(shapes_of(width=width, shortcut="always")["params"]) / 1e6) == millions


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_simclrs_shortcut_in_every_group_adds_4224(name):
    plain, always = (
        count(shapes_of(name=name, shortcut=s)["params"]) for s in ("when_needed", "always")
    )
    assert always - plain == 64 * 64 + 2 * 64


def torch_name(path):
    """('block_group2_block0_conv1', 'kernel') -> 'layer2.0.conv2.weight'."""
    module, leaf = path
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    if module in ("conv_init", "bn_init"):
        return f"{module.split('_')[0]}1.{leaf}"
    group, block, *rest = module.removeprefix("block_group").replace("block", "").split("_")
    part = "_".join(rest)
    if part.startswith("shortcut"):
        part = f"downsample.{int(part.endswith('bn'))}"
    else:
        part = f"{part[:-1]}{int(part[-1]) + 1}"
    return f"layer{group}.{block}.{part}.{leaf}"


def torchvision_variables(name):
    def fill(path, leaf):
        keys = [p.key for p in path]
        if keys[-1] == "kernel":
            h, w, i, o = leaf.shape
            return recorder.weights_of(torch_name(keys[1:]), (o, i, h, w)).transpose(2, 3, 1, 0)
        return recorder.weights_of(torch_name(keys[1:]), leaf.shape)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(name=name))


@pytest.fixture(scope="module")
def recorded():
    return np.load(ROOT / "tests/golden/resnet_torchvision.npz")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_forward_passes_equal_torchvision(name, recorded):
    net, variables = models.build({"name": name}), torchvision_variables(name)
    images = recorded["images"].transpose(0, 2, 3, 1)
    features, named = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(features, recorded[f"{name}_eval"], rtol=2e-4, atol=2e-4)
    for group in range(1, 5):
        sums = named[f"block_group{group}"].sum((1, 2))
        expected = recorded[f"{name}_layer{group}"]
        np.testing.assert_allclose(sums, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    (features, _), moved = jax.jit(
        lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, images)
    # Two images of 64 px leave 8 values for the last statistics: they amplify rounding.
    np.testing.assert_allclose(features, recorded[f"{name}_train"], rtol=2e-3, atol=2e-3)
    stats = moved["batch_stats"]
    last = {"resnet18": "block_group4_block1_bn1", "resnet50": "block_group4_block2_bn1"}[name]
    np.testing.assert_allclose(stats[last]["mean"], recorded[f"{name}_mean"], atol=1e-3)
    # torch keeps the unbiased variance, n / (n - 1) of ours; n = 2 * 32 * 32 here.
    before = variables["batch_stats"]["bn_init"]["var"]
    n = 2 * 32 * 32
    new = (np.asarray(stats["bn_init"]["var"]) - 0.9 * before) / 0.1
    unbiased = 0.9 * before + 0.1 * new * n / (n - 1)
    np.testing.assert_allclose(unbiased, recorded[f"{name}_bn1_var"], rtol=1e-4)


def test_same_padding_equals_tensorflow():
    """At an even size TF pads strided windows (0,1) where torch pads (1,1): by hand on a ramp."""
    from jssl.models.conv import Conv, explicit_padding

    assert explicit_padding("SAME", (224, 224), (7, 7), 2) == ((2, 3), (2, 3))
    assert explicit_padding("SAME", (112, 112), (3, 3), 2) == ((0, 1), (0, 1))
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    same = Conv(1, (3, 3), strides=2, padding="SAME").apply(kernel, x)[0, :, :, 0]
    torch = Conv(1, (3, 3), strides=2, padding=((1, 1), (1, 1))).apply(kernel, x)[0, :, :, 0]
    np.testing.assert_array_equal(same, [[45.0, 39.0], [66.0, 50.0]])
    np.testing.assert_array_equal(torch, [[10.0, 24.0], [51.0, 90.0]])


def test_padding_switches_reach_the_network():
    x = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    outputs = []
    for switches in ({}, {"padding": "same"}, {"pool_padding": "same"}):
        net = models.build({"name": "resnet10", "width": 0.125, **switches})
        variables = net.init(jax.random.key(0), x, train=True)
        outputs.append(np.asarray(net.apply(variables, x, train=False)[0]))
    assert not np.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not np.allclose(outputs[0], outputs[2], atol=1e-4)


def test_stems_and_intermediates():
    for stem, side in (("cifar", 32), ("imagenet", 8)):
        net = models.build({"name": "resnet18", "width": 0.25, "stem": stem})
        x = jnp.zeros((2, 32, 32, 3))
        features, named = jax.eval_shape(
            lambda x=x, net=net: net.init_with_output(jax.random.key(0), x, train=True)[0]
        )
        assert features.shape == (2, 128)
        assert named["stem"].shape == (2, side, side, 16)
        assert [named[f"block_group{g}"].shape[-1] for g in range(1, 5)] == [16, 32, 64, 128]
        assert named["block_group4"].shape[1] == side // 8
    fixed = shapes_of(width=2.0, stem_width_fixed=True)["params"]
    assert fixed["conv_init"]["kernel"].shape == (7, 7, 3, 64)


def test_initial_values():
    params = shapes_of(name="resnet18")["params"]
    made = models.build({"name": "resnet18", "zero_init_last_gamma": True}).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True
    )["params"]
    assert jax.tree.structure(params) == jax.tree.structure(made)
    assert not np.any(made["block_group2_block1_bn1"]["scale"])
    assert np.all(made["block_group2_block1_bn0"]["scale"] == 1)
    kernel = made["block_group3_block1_conv0"]["kernel"]  # [3,3,256,256]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 256)), rtol=0.01)
    lecun = models.build({"name": "resnet18", "kernel_init": "lecun"}).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True
    )["params"]["block_group3_block1_conv0"]["kernel"]
    np.testing.assert_allclose(np.std(lecun), np.sqrt(1 / (9 * 256)), rtol=0.01)
    assert np.abs(lecun).max() < 2.3 * np.sqrt(1 / (9 * 256))  # truncated at two sigma


def test_bfloat16_keeps_float32_parameters_and_features():
    net = models.build({"name": "resnet10", "width": 0.25}, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    variables = net.init(jax.random.key(1), x, train=True)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features, named = net.apply(variables, x, train=False)
    assert features.dtype == jnp.float32
    assert named["stem"].dtype == jnp.bfloat16
    exact = models.build({"name": "resnet10", "width": 0.25}).apply(variables, x, train=False)[0]
    np.testing.assert_allclose(features, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("norm", ["gn1", "ln"])
def test_other_norms_have_no_batch_statistics(norm):
    variables = shapes_of(name="resnet10", norm=norm)
    assert "batch_stats" not in variables


def test_unknown_values_name_the_nearest():
    with pytest.raises(UserError, match="Unknown model.name 'resnet51': did you mean 'resnet50'"):
        models.build({"name": "resnet51"})
    with pytest.raises(UserError, match="model.stem 'cifr': did you mean 'cifar'"):
        models.build({"name": "resnet18", "stem": "cifr"})
