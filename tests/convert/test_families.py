"""Published weights against the networks that wrote them, see tests/reference/record_weights.py.

The names and shapes are those of torch, torchvision and timm, and so are the outputs; the weights
are drawn by name on both sides.
"""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.torch_files import legacy_file, zip_file
from helpers import ROOT
from safetensors.numpy import save_file

from jssl import convert
from jssl.augment._pixels import STATISTICS
from jssl.errors import UserError
from jssl.main import main
from jssl.models.efficientnet import SIZES, make_efficientnet
from jssl.run import build


def imported(name):
    """The script of tests/reference of that name, as a module."""
    folder = ROOT / "tests" / "reference"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


recorder = imported("record_weights")

GOLDEN = ROOT / "tests" / "golden"
OUTPUTS = np.load(GOLDEN / "weights_outputs.npz")
QUEUE = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)


def state_dict(kind):
    """The state dict that was recorded."""
    rows = [line.split() for line in (GOLDEN / "weights_names.txt").read_text().splitlines()]
    shapes = {
        name: () if shape == "scalar" else tuple(map(int, shape.split("x")))
        for row, name, shape in rows
        if row == kind
    }
    tensors = {name: recorder.drawn(name, shape) for name, shape in shapes.items()}
    if kind == "moco_v3_vit":
        for encoder in ("base_encoder", "momentum_encoder"):
            tensors[f"module.{encoder}.pos_embed"] = recorder.positions(4, 384)
    if kind in ("moco_v1", "moco_v2"):
        tensors.update({"module.queue": QUEUE, "module.queue_ptr": np.array([8])})
    return tensors


def safetensors_file(path, tensors):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)


# container of each, the family, and the intermediate of `embed` that was recorded
CASES = {
    "moco_v1": (legacy_file, "moco", "projection"),
    "moco_v2": (zip_file, "moco", "projection"),
    "moco_v3": (zip_file, "moco_v3", "projection"),
    "moco_v3_vit": (legacy_file, "moco_v3", "projection"),
    "resnet18": (safetensors_file, "resnet", "logits"),
    "resnet50": (zip_file, "resnet", "logits"),
    "tf_efficientnet_b0": (safetensors_file, "efficientnet_timm", "logits"),
    "deit_distilled": (zip_file, "deit", "logits"),
    "deit": (safetensors_file, "deit", "logits"),
    "beit": (zip_file, "beit", "logits"),
}


def written(folder, kind, change=None):
    tensors = state_dict(kind)
    tensors = change(tensors) if change else tensors
    path, write = folder / kind, CASES[kind][0]
    write(path, tensors if write is safetensors_file else {"state_dict": tensors, "epoch": 200})
    return path


@pytest.mark.parametrize("kind", CASES)
def test_the_outputs_are_those_of_the_network_that_wrote_the_file(tmp_path, kind):
    loaded = convert.read_pretrained(written(tmp_path, kind))
    assert loaded.family.name == CASES[kind][1]
    method, _ = build.make_method(loaded.config, axis_name=None)
    # The recorded pictures are normalised already.
    mean, deviation = STATISTICS[loaded.config.augment.normalize]
    images = OUTPUTS["images"].transpose(0, 2, 3, 1) * np.float32(deviation) + np.float32(mean)
    features, named = jax.jit(method.embed)(loaded.state, jnp.asarray(images))
    expected = OUTPUTS[kind]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(named[CASES[kind][2]], expected, rtol=0, atol=1e-5 * scale)
    widths = {"resnet50": 2048, "tf_efficientnet_b0": 1280, "moco_v3_vit": 384, "beit": 768}
    widths |= {"deit": 192, "deit_distilled": 192}
    assert features.shape == (2, widths.get(kind, 512))


def test_mocos_key_network_and_queue_are_read(tmp_path):
    loaded = convert.read_pretrained(written(tmp_path, "moco_v2"))
    expected = recorder.drawn("module.encoder_k.fc.0.weight", (512, 512)).T
    np.testing.assert_array_equal(loaded.state.target["projector"]["dense0"]["kernel"], expected)
    np.testing.assert_array_equal(loaded.state.queue, QUEUE.T)
    assert int(loaded.state.queue_pointer) == 8
    assert loaded.config.model.name == "resnet18" and loaded.config.moco.head == "mlp"
    kept = {leaf.split(".")[0] for leaf in loaded.kept}
    assert kept == {"step", "key", "opt_state"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda t: {**t, "fc.weight": t["fc.weight"][:, :9]},
            r"fc.weight: as .*\[9, 10\], expected",
        ),
        (
            lambda t: {**t, "extra.weight": t["fc.bias"]},
            "extra.weight: not known to family 'resnet'",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "bn1.bias"},
            "bn1.bias: absent, expected for",
        ),
        (lambda t: {**t, "fc.bias": t["fc.bias"] * np.nan}, "fc.bias: values that are not finite"),
        (lambda t: {"a": t["fc.bias"]}, "of no family that jssl recognises: found 1 tensors, a"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        convert.read_pretrained(written(tmp_path, "resnet18", change))


def test_a_family_can_be_named(tmp_path):
    path = written(tmp_path, "resnet18")
    assert convert.read_pretrained(path, "resnet").config.supervised.num_classes == 10
    with pytest.raises(UserError, match="Unknown --family=resnett: did you mean 'resnet'"):
        convert.read_pretrained(path, "resnett")
    with pytest.raises(UserError, match="does not fit family 'efficientnet_timm'"):
        convert.read_pretrained(path, "efficientnet_timm")


def timm_folder(folder, kind, **config):
    folder.mkdir()
    safetensors_file(folder / "model.safetensors", state_dict(kind))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_of_timm_says_how_pictures_are_prepared(tmp_path):
    about = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 96, 96], "crop_pct": 0.9,
             "interpolation": "bilinear"}  # fmt: skip
    folder = timm_folder(tmp_path / "x", "resnet18", architecture="resnet18", pretrained_cfg=about)
    loaded = convert.read_pretrained(folder)
    data, augment = loaded.config.data, loaded.config.augment
    assert (augment.normalize, augment.size) == ("half", 96)
    assert (data.eval_crop, data.eval_interpolation) == (0.9, "bilinear")
    assert loaded.assumed == ""
    assert "torchvision" in convert.read_pretrained(folder / "model.safetensors").assumed
    about["crop_pct"] = 0
    again = timm_folder(tmp_path / "y", "resnet18", pretrained_cfg=about)
    with pytest.raises(UserError, match="data.eval_crop expects a number above 0"):
        convert.read_pretrained(again)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("tf_efficientnet_b0", "efficientnet_b0"), ("resnet18", "resnetblur18")],
)
def test_another_network_with_the_same_names_is_refused(tmp_path, kind, architecture):
    folder = timm_folder(tmp_path / "x", kind, architecture=architecture)
    with pytest.raises(UserError, match=f"is of architecture '{architecture}', which jssl does"):
        convert.read_pretrained(folder)


def test_no_two_efficientnets_are_taken_for_each_other():
    nets = [make_efficientnet(name) for name in SIZES]
    assert len({(net.lite, *net.dimensions()) for net in nets}) == len(SIZES)


def test_a_family_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="type --weights=FILE too"):
        main(["evaluate", "--family=resnet", f"--workdir={tmp_path}"])
