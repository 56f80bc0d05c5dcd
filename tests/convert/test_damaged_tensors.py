"""A tensor that is missing or of another shape ends in one sentence, whatever it is."""

import re
from pathlib import Path

import numpy as np
import pytest
from convert import test_families, test_official, test_transformers
from convert.test_families import GOLDEN
from convert.tf_files import checkpoint_file
from convert.torch_files import zip_file
from safetensors.numpy import load_file

from jssl import convert
from jssl.convert.containers import Weights, read_weights
from jssl.errors import UserError

KINDS = {kind: family for kind, (_, family, _) in test_families.CASES.items()}
KINDS |= {kind: family for kind, (_, _, family) in test_official.CASES.items()}
FILES = {"simclr": "simclr", "simclr_linear": "simclr", "byol": "byol.pkl", "dalle": "dalle"}
# What `read_pretrained` turns into a sentence.
EXPECTED = (UserError, KeyError, ValueError, IndexError, TypeError)


def shapes(kind):
    """The tensors of a kind without their values; names that say nothing of a network left out."""
    module = test_families if kind in test_families.CASES else test_official
    tensors = module.state_dict(kind)
    return {k: v if v.size < 100 or "pos_embed" in k else np.broadcast_to(np.float32(0), v.shape)
            for k, v in tensors.items()}  # fmt: skip


class Watched(dict):
    """Remembers which names were asked for."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.asked = set()

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)


def config_of(family, tensors):
    convert.FAMILIES[family].config(Weights(Path("x"), (), "torch", tensors, {}))


@pytest.mark.parametrize("kind", [*KINDS, *FILES])
def test_no_tensor_of_a_family_is_taken_for_granted(kind):
    if kind in FILES:
        family, tensors = kind, read_weights(GOLDEN / FILES[kind]).tensors
        tensors = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in tensors.items()}
    else:
        family, tensors = KINDS[kind], shapes(kind)
    tensors = Watched(convert.FAMILIES[family].prepare(tensors))
    config_of(family, tensors)
    refused = 0
    for name in sorted(tensors.asked | {name for name in tensors if "embed" in name}):
        others = {k: v for k, v in tensors.items() if k != name}
        for changed in (others, {**others, name: np.zeros(())}, {**others, name: np.zeros(3)}):
            try:
                config_of(family, changed)
            except EXPECTED:
                refused += 1
    assert refused > 0


@pytest.mark.parametrize("kind", ["deepcluster_v2", "swav", "cmc_alexnet", "regnet_timm"])
def test_a_tensor_that_the_config_does_not_need_is_named(tmp_path, kind):
    tensors = test_official.state_dict(kind)
    name = [n for n in tensors if n.endswith("running_var")][-1]
    others = {k: v for k, v in tensors.items() if k != name}
    for change, match in (
        ({}, rf"{re.escape(name)}: absent, expected for batch_stats"),
        ({name: np.zeros(3, np.float32)}, rf"{re.escape(name)}: as batch_stats\S+ \[3\], expected"),
        ({name: tensors[name] * np.nan}, rf"{re.escape(name)}: values that are not finite"),
        ({name: tensors[name], "a.b": tensors[name]}, "a.b: not known to family"),
    ):
        zip_file(tmp_path / "x.pth", {"state_dict": {**others, **change}})
        with pytest.raises(UserError, match=match):
            convert.read_pretrained(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("deepcluster_alexnet", "classifier.1.weight"),
        ("deepcluster_v2", "module.projection_head.0.bias"),
        ("cmc_alexnet", "encoder.module.l_to_ab.fc6.0.weight"),
        ("vgg", "classifier.0.weight"),
        ("regnet_timm", "s1.b1.conv2.conv.weight"),
    ],
)
def test_a_tensor_that_cannot_be_turned_is_named(tmp_path, kind, name):
    module = test_families if kind in test_families.CASES else test_official
    tensors = module.state_dict(kind)
    for shape in ((), (3,), (2, 3, 5)):
        zip_file(tmp_path / "x.pth", {"state_dict": {**tensors, name: np.zeros(shape, np.float32)}})
        with pytest.raises(UserError, match=rf"{re.escape(name)}|does not fit family"):
            convert.read_pretrained(tmp_path / "x.pth")


def test_a_tensor_of_tensorflow_and_of_transformers_that_cannot_be_turned(tmp_path):
    tensors, _ = test_official.noisy_student()
    name = "efficientnet-b0/blocks_0/depthwise_conv2d/depthwise_kernel/ExponentialMovingAverage"
    checkpoint_file(tmp_path / "x", {**tensors, name: np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"depthwise_kernel\S*: \[3\] cannot be params"):
        convert.read_pretrained(tmp_path / "x")
    folder = test_transformers.folder_of(tmp_path / "vit", "vit")
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    tensors = load_file(folder / "model.safetensors")
    for shape in ((), (3,), (2, 192)):
        changed = {**tensors, name: np.zeros(shape, np.float32)}
        test_families.safetensors_file(folder / "model.safetensors", changed)
        with pytest.raises(UserError, match=r"query, key and value of shapes .*: expected one"):
            convert.read_pretrained(folder)
