"""RegNetY against torchvision: sizes, stages, and a forward pass on the same weights."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from jssl import models
from jssl.models.regnet import SIZES, RegNet, stages_of

FOLDER = str(ROOT / "tests" / "reference")


@pytest.fixture(scope="module")
def recorder():
    sys.path.insert(0, FOLDER)  # it imports its neighbour
    path = ROOT / "tests/reference/record_torchvision_regnet.py"
    spec = importlib.util.spec_from_file_location("record_torchvision_regnet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(FOLDER)
    return module


@pytest.fixture(scope="module")
def recorded():
    return np.load(ROOT / "tests/golden/regnet_torchvision.npz")


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts_equal_torchvision(name, recorded):
    net, x = models.build({"name": name}), jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))["params"]
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    features = net.stages[-1][1]
    assert count + 1000 * features + 1000 == recorded[name.replace("regnety_", "regnet_y_")]


def test_stages_are_the_published_ones():
    """Table of the paper's models and of torchvision: RegNetY-400MF and 16GF."""
    result = {name: stages_of(SIZES[name]) for name in ("regnety_400mf", "regnety_16gf")}
    assert [s[1] for s in result["regnety_400mf"]] == [48, 104, 208, 440]
    assert [s[0] for s in result["regnety_400mf"]] == [1, 3, 6, 6]
    assert [s[1] for s in result["regnety_16gf"]] == [224, 448, 1232, 3024]
    assert {s[2] for s in result["regnety_16gf"]} == {112}


def torch_name(module, leaf):
    """('block_group2_block0_conv1', 'kernel') -> 'trunk_output.block2.block2-0.f.b.0.weight'."""
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    if module in ("conv_init", "bn_init"):
        return f"stem.{int(module == 'bn_init')}.{leaf}"
    group, block, part = module.removeprefix("block_group").split("_", 2)
    block = block.removeprefix("block")
    parts = {"shortcut": "proj.0", "shortcut_bn": "proj.1", "se_reduce": "f.se.fc1"}
    parts |= {"se_expand": "f.se.fc2"}
    parts |= {f"conv{i}": f"f.{letter}.0" for i, letter in enumerate("abc")}
    parts |= {f"bn{i}": f"f.{letter}.1" for i, letter in enumerate("abc")}
    return f"trunk_output.block{group}.block{group}-{block}.{parts[part]}.{leaf}"


def test_forward_pass_equals_torchvision(recorder, recorded):
    net, used = RegNet(recorder.STAGES), []
    images = recorded["images"].transpose(0, 2, 3, 1)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, train=True))

    def fill(path, leaf):
        name = torch_name(*(p.key for p in path[1:]))
        used.append(name)
        if leaf.ndim < 4:
            return recorder.weights_of(name, leaf.shape)
        h, w, i, o = leaf.shape
        return recorder.weights_of(name, (o, i, h, w)).transpose(2, 3, 1, 0)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    assert sorted(used) == recorded["names"].tolist()  # every one of torchvision's, and no other
    features, named = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(features, recorded["eval"], rtol=1e-4, atol=1e-4)
    assert named["block_group2"].shape == (2, 4, 4, 24)
    (features, _), _ = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    np.testing.assert_allclose(features, recorded["train"], rtol=1e-3, atol=1e-3)


def test_small_images_keep_their_size_in_the_stem():
    net, x = RegNet(((1, 8, 8),), small_images=True), jnp.zeros((1, 32, 32, 3))
    _, named = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, train=False))[0]
    assert named["stem"].shape == (1, 32, 32, 32) and named["block_group1"].shape == (1, 16, 16, 8)
