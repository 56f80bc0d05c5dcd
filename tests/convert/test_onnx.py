"""Exported ONNX graphs, run by onnxruntime, against the networks in jax."""

import sys

import jax
import numpy as np
import onnxruntime
import pytest
from convert.export_runs import config_of, drawn_run, pictures
from helpers import small_config

from jssl import convert, models
from jssl.convert.export import onnx_file, onnx_operations
from jssl.convert.network import read_network
from jssl.errors import UserError
from jssl.main import main


def supervised(**model):
    config = small_config("supervised", launch="jit")
    config.model.update({**models.DEFAULTS, "name": "resnet10", "width": 0.25, **model})
    config.augment.size = 64
    return config


CONFIGS = {
    "encoder": lambda: config_of("encoder"),
    "padding": lambda: supervised(padding="same", pool_padding="same", shortcut="always"),
    "group_norm": lambda: supervised(norm="gn1", stem="cifar"),
    "efficientnet": lambda: small_config("noisy_student", launch="jit"),
    "deit_distilled": lambda: config_of("deit_distilled"),
    "vit_mean": lambda: config_of("vit_mean"),
    "moco_v3": lambda: config_of("moco_v3"),
    "beit_shared": lambda: config_of("beit_shared"),
    **{
        method: lambda method=method: small_config(method, launch="jit")
        for method in ("cmc", "cpc", "deepcluster", "dvae")
    },
}


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize("kind", CONFIGS)
def test_onnxruntime_computes_what_jssl_does(tmp_path, kind):
    config = CONFIGS[kind]()
    run = drawn_run(config, tmp_path / "run")
    network, (path, beside) = convert.export_run(run, tmp_path / "x.onnx", "onnx")
    images = pictures(config.augment.size)
    found = run_onnx(path, images)
    features, named = jax.jit(network.embed)(network.state, images)
    assert set(found) == {"features"} | ({"logits"} & set(named))
    for name, expected in (("features", features), ("logits", named.get("logits"))):
        if expected is not None:
            atol = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol, err_msg=name)
    one = run_onnx(path, np.concatenate([images, images, images])[:5])["features"]
    np.testing.assert_allclose(one[4], found["features"][0], rtol=0, atol=1e-4)  # any batch
    assert f"input: images uint8 [batch,{config.augment.size}," in beside.read_text()


def test_float_pictures(tmp_path, capsys):
    run = drawn_run(config_of("encoder"), tmp_path / "run")
    for pixels in ("uint8", "float32"):
        main(["export", f"--workdir={run}", f"--output={tmp_path / pixels}.onnx", "--format=onnx",
              f"--pixels={pixels}"])  # fmt: skip
    assert "float32.md: resnet10, the online weights of step 0" in capsys.readouterr().out
    images = pictures(64)
    expected = run_onnx(tmp_path / "uint8.onnx", images)["features"]
    found = run_onnx(tmp_path / "float32.onnx", images.astype(np.float32) / 255)["features"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_run_in_bfloat16_is_exported_in_float32(tmp_path):
    config = config_of("encoder")
    run = drawn_run(config, tmp_path / "run")
    config.dtype = "bfloat16"
    narrow = drawn_run(config, tmp_path / "narrow")
    paths = [
        convert.export_run(folder, folder.with_suffix(".onnx"), "onnx")[1][0]
        for folder in (run, narrow)
    ]
    first, second = (run_onnx(path, pictures(64))["features"] for path in paths)
    np.testing.assert_array_equal(first, second)
    assert "computes in bfloat16" in (tmp_path / "narrow.md").read_text()


def test_what_is_not_written(tmp_path, monkeypatch):
    run = drawn_run(config_of("encoder"), tmp_path / "run")
    network = read_network(run)
    cases = (
        (lambda: onnx_file.export_onnx(network, tmp_path / "x.pb"), "must end with .onnx"),
        (
            lambda: onnx_file.export_onnx(network, tmp_path / "x.onnx", "uint"),
            "Unknown --pixels=uint: did you mean 'uint8'",
        ),
        (
            lambda: convert.export_run(run, tmp_path / "x", "timm", pixels="uint8"),
            "--pixels=uint8 is the input of --format=onnx; found --format=timm",
        ),
    )
    for export, match in cases:
        with pytest.raises(UserError, match=match):
            export()
    with monkeypatch.context() as patch:
        patch.delitem(onnx_operations.RULES, "reduce_window_max")
        with pytest.raises(UserError, match="has the operation 'reduce_window_max'"):
            onnx_file.export_onnx(network, tmp_path / "x.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "MAX_BYTES", 1000)
        with pytest.raises(UserError, match="Type --format=safetensors"):
            onnx_file.export_onnx(network, tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'jssl\[onnx\]', or --format=safetensors"):
        onnx_file.export_onnx(network, tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
