"""Export to detectron2 against MoCo's published converter, run on torchvision's networks."""

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, small_config
from runs import finished_run

import jssl
from jssl import convert
from jssl.errors import UserError

spec = importlib.util.spec_from_file_location("resnets", ROOT / "tests/models/test_resnet.py")
resnets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(resnets)


def converted(name):
    """New name -> (old name, shape), recorded by tests/reference/record_detectron2_names.py.

    Without the classifier, which detectron2 does not read, and torch's counts of batches.
    """
    lines = (ROOT / "tests/golden/detectron2_names.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith(f"{name} ")]
    return {
        new: (old, tuple(map(int, shape.split("x"))))
        for _, old, new, shape in rows
        if not old.startswith("fc.") and shape != "scalar"
    }


def test_names_and_shapes_of_resnet50_equal_the_converters():
    expected = converted("resnet50")
    shapes = resnets.shapes_of(name="resnet50")
    blank = {
        part: {m: {k: np.zeros(x.shape, np.int8) for k, x in leaves.items()}
               for m, leaves in shapes[part].items()}
        for part in ("params", "batch_stats")
    }  # fmt: skip
    result = convert.detectron2_model(blank["params"], blank["batch_stats"])
    assert {name: x.shape for name, x in result.items()} == {
        name: shape for name, (_, shape) in expected.items()
    }
    assert len(result) == 53 * 5  # convolutions, each with a norm of four vectors
    assert result["res5.2.conv3.norm.running_var"].shape == (2048,)


def test_values_equal_those_under_torchvisions_names():
    """The variables with which the forward pass is torchvision's, tensor by tensor."""
    variables = resnets.torchvision_variables("resnet18")
    result = convert.detectron2_model(variables["params"], variables["batch_stats"])
    expected = converted("resnet18")
    assert result.keys() == expected.keys() and len(result) == 20 * 5
    for name, (old, shape) in expected.items():
        assert result[name].dtype == np.float32
        np.testing.assert_array_equal(result[name], resnets.recorder.weights_of(old, shape))


def config_of(**model):
    config = small_config("simclr", launch="jit")
    config.model.update({"name": "resnet18", "width": 1 / 8, "stem": "imagenet", **model})
    config.model.stage_sizes = ()
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = config_of(shortcut="when_needed", pool_padding="same")
    config.augment.normalize = "imagenet"
    return finished_run(config, tmp_path_factory.mktemp("run"))


def test_the_file_and_its_recipe(run, tmp_path):
    path = tmp_path / "net.pkl"
    message = convert.export_detectron2(run, path)
    content = pickle.loads(path.read_bytes())
    _, state = jssl.load_encoder(run)
    assert content["matching_heuristics"] is True and content["__author__"] == "jssl"
    model = content["model"]
    assert model.keys() == converted("resnet18").keys()
    kernel = state.params["encoder"]["block_group3_block0_shortcut"]["kernel"]
    np.testing.assert_array_equal(model["res4.0.shortcut.weight"][:, :, 0, 0], kernel[0, 0].T)
    assert all(x.dtype == np.float32 and x.flags.writeable for x in model.values())
    # No name that only one version of numpy has.
    assert b"numpy._core" not in path.read_bytes() and b"numpy.core" not in path.read_bytes()
    text = message.read_text()
    assert message == tmp_path / "net.md"
    for fact in (
        'NORM: "naiveSyncBN"', "PIXEL_MEAN: [123.675, 116.28, 103.53]",
        "PIXEL_STD: [58.395, 57.12, 57.375]", 'FORMAT: "RGB"', "STRIDE_IN_1X1: False",
        "FREEZE_AT: 0", "STEPS: (18000, 22000)", "MAX_ITER: 24000", "WARMUP_ITERS: 100",
        "IMS_PER_BATCH: 16", "BASE_LR: 0.02", "PRE_NMS_TOPK_TEST: 6000", "DEPTH: 18",
        "STEM_OUT_CHANNELS: 8", "RES2_OUT_CHANNELS: 8", "Res5ROIHeadsExtraNorm",
        "pads evenly", "take an FPN model", "82.5 / 57.4 / 64.0",
    ):  # fmt: skip
        assert fact in text, fact


def test_invalid_arguments(run, tmp_path):
    with pytest.raises(UserError, match=r"Type --output=.*net.npz.pkl"):
        convert.export_detectron2(run, tmp_path / "net.npz")
    for change, message in (
        ({"stem": "cifar"}, "found model.stem='cifar', expected 'imagenet'"),
        ({"shortcut": "always"}, "model.shortcut='always'"),
        ({"norm": "gn1"}, "model.norm='gn1'"),
        ({"name": "resnet10"}, "no 'resnet10': did you mean 'resnet1"),
    ):
        with pytest.raises(UserError, match=message):
            convert.detectron2.check(config_of(**{"shortcut": "when_needed", **change}))
    done = subprocess.run(
        [sys.executable, "-m", "jssl", "export", f"--workdir={tmp_path}", "--output=x.pkl",
         "--format=detectron"],
        capture_output=True, text=True, cwd=tmp_path, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Unknown format 'detectron': did you mean 'detectron2'" in done.stderr
