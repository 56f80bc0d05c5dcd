"""Folders of transformers, see tests/reference/record_transformers.py."""

import json

import numpy as np
import pytest
from convert.test_families import GOLDEN, recorder, safetensors_file
from convert.test_official import embedded, pictures, token_logits

from jssl import convert
from jssl.errors import UserError

OUTPUTS = np.load(GOLDEN / "transformers_outputs.npz")
CONFIGS = json.loads((GOLDEN / "transformers_configs.json").read_text())
FAMILIES = {
    "vit": "deit",
    "deit": "deit",
    "beit": "beit",
    "beit_pretrained": "beit_pretrained",
    "efficientnet": "efficientnet_pytorch",
    "resnet": "resnet",
    "regnet": "regnet_timm",
}


def folder_of(path, kind, preprocessor=None, **config):
    """A folder with the tensors of a kind, and its config.json."""
    tensors = {}
    for line in (GOLDEN / "transformers_names.txt").read_text().splitlines():
        row, name, shape = line.split()
        if row == kind:
            dims = () if shape == "scalar" else tuple(map(int, shape.split("x")))
            tensors[name] = recorder.drawn(name, dims)
    path.mkdir()
    safetensors_file(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps({**CONFIGS[kind], **config}))
    if preprocessor:
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return path


def result(kind, loaded):
    """What jssl computes where OUTPUTS[kind] was recorded."""
    if kind == "beit_pretrained":
        return token_logits(loaded, OUTPUTS["images"].transpose(0, 2, 3, 1))
    return embedded(loaded, pictures(OUTPUTS["images"], loaded.config))[1]["logits"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_outputs_are_those_of_transformers(tmp_path, kind):
    loaded = convert.read_pretrained(folder_of(tmp_path / "x", kind))
    assert loaded.family.name == FAMILIES[kind]
    scale = np.abs(OUTPUTS[kind]).max()
    np.testing.assert_allclose(result(kind, loaded), OUTPUTS[kind], rtol=0, atol=1e-5 * scale)


def test_the_number_of_heads_is_read(tmp_path):
    loaded = convert.read_pretrained(folder_of(tmp_path / "x", "vit", num_attention_heads=6))
    assert loaded.config.model.heads == 6
    loaded = convert.read_pretrained(folder_of(tmp_path / "y", "vit"))
    assert loaded.config.model.heads == 0  # the network's own, 3


PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        ({**PIXELS, "size": {"height": 64, "width": 64}}, (64, 1.0, "bicubic", "half")),
        ({**PIXELS, "size": 64, "resample": 2}, (64, 1.0, "bilinear", "half")),
        (
            {**PIXELS, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            (224, 0.875, "bicubic", "half"),
        ),
        (
            {**PIXELS, "size": {"shortest_edge": 224}, "crop_pct": 0.9},
            (224, 0.9, "bicubic", "half"),
        ),
    ],
)
def test_the_preprocessor_is_read(tmp_path, preprocessor, expected):
    loaded = convert.read_pretrained(folder_of(tmp_path / "x", "resnet", preprocessor))
    data, augment = loaded.config.data, loaded.config.augment
    result = (augment.size, data.eval_crop, data.eval_interpolation, augment.normalize)
    assert result == expected and loaded.assumed == ""


@pytest.mark.parametrize(
    ("kind", "config", "match"),
    [
        ("vit", {"num_attention_heads": 5}, "has num_attention_heads 5 .*expected 1 or 2"),
        ("vit", {"hidden_act": "gelu_new"}, "has hidden_act 'gelu_new'.*expected 'gelu' or 'relu'"),
        ("vit", {"layer_norm_eps": 0.1}, "has layer_norm_eps 0.1"),
        ("resnet", {"downsample_in_bottleneck": True}, "has downsample_in_bottleneck True"),
    ],
)
def test_another_network_of_the_same_shapes_is_refused(tmp_path, kind, config, match):
    with pytest.raises(UserError, match=match):
        convert.read_pretrained(folder_of(tmp_path / "x", kind, **config))


@pytest.mark.parametrize("preprocessor", [{"size": "large"}, {"size": 64, "do_normalize": False}])
def test_a_preprocessor_without_what_is_needed_is_refused(tmp_path, preprocessor):
    with pytest.raises(UserError, match="without a size, or without normalisation"):
        convert.read_pretrained(folder_of(tmp_path / "x", "resnet", preprocessor))
