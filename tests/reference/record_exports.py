"""Holds what jssl exports against timm and torch, and records it for tests/convert/test_export.py.

    python tests/reference/record_exports.py tests/golden

Needs jssl, torch, timm, transformers, onnx and onnxruntime (recorded with 2.14.1, 1.0.31, 5.24.0,
1.23.2 and 1.32.0). Every kind of
`tests/convert/export_runs.py` is exported, loaded by the other library and run on the same
pictures. It asserts that all tensors are equal and that outputs differ by at most 1e-5 of the
largest, prints a table, and writes the names and shapes (exports_names.txt), the config.json files
that were loaded (exports_configs.json) and the other library's outputs (exports_outputs.npz).
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from convert.export_runs import KINDS, config_of, drawn_run, pictures  # noqa: E402

from jssl import convert  # noqa: E402
from jssl.convert.export.card import preprocessing  # noqa: E402
from jssl.errors import UserError  # noqa: E402

LIMIT = 1e-5


def inputs(torch, network):
    """The pictures as the other library's loader would give them: float32 [2,3,S,S]."""
    pixels = preprocessing(network.config)
    images = pictures(pixels["size"]).astype(np.float32) / 255
    images = (images - np.float32(pixels["mean"])) / np.float32(pixels["std"])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def timm_outputs(torch, path, network):
    """What timm computes; its net."""
    import timm

    net = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    with torch.no_grad():
        tokens = net.forward_features(inputs(torch, network))
        found = {"features": net.forward_head(tokens, pre_logits=True).numpy()}
        if net.num_classes:
            found["logits"] = net(inputs(torch, network)).numpy()
    if network.config.model.distillation_token:
        del found["features"]  # timm's are the mean of two tokens
    return net, found


def compare_tensors(state, tensors):
    """All tensors that the net has were exported, and are equal bit by bit."""
    state = {name: x for name, x in state.items() if "num_batches_tracked" not in name}
    names = {re.sub(r"^(resnet|vit|deit|beit)\.", "", name): x for name, x in state.items()}
    own = {
        re.sub(r"^(resnet|vit|deit|beit)\.", "", name): x
        for name, x in tensors.items()
        if "num_batches_tracked" not in name
    }
    assert names.keys() == own.keys(), set(names) ^ set(own)
    difference = max(float(np.abs(names[name] - own[name]).max()) for name in names)
    assert difference == 0
    return f"tensors {difference:g}"


def compare_outputs(found, own):
    """Asserts the limit for each output; a text for the table."""
    rows = []
    for name, value in found.items():
        error = float(np.abs(value - own[name]).max() / np.abs(value).max())
        assert error <= LIMIT, (name, error)
        rows.append(f"{name} {error:.1e} of {np.abs(value).max():.3g}")
    return rows


def jssl_outputs(network):
    images = pictures(preprocessing(network.config)["size"])
    features, named = jax.jit(network.embed)(network.state, images)
    return {"features": np.asarray(features), "logits": np.asarray(named.get("logits", ()))}


def hf_outputs(torch, path, network):
    """What transformers computes; its net."""
    import transformers

    name = json.loads((path / "config.json").read_text())["architectures"][0]
    bare = {} if name not in ("ViTModel", "DeiTModel") else {"add_pooling_layer": False}
    net, info = getattr(transformers, name).from_pretrained(
        path, output_loading_info=True, attn_implementation="eager", **bare
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    net.eval()
    with torch.no_grad():
        out = net(inputs(torch, network), output_hidden_states=True)
    found = {}
    if "logits" in out:
        found["logits"] = out.logits.numpy()
    elif name == "ResNetModel" or name == "BeitModel":
        found["features"] = out.pooler_output.numpy().reshape(2, -1)
    else:
        found["features"] = out.last_hidden_state[:, 0].numpy()
    check_processor(transformers, path, network)
    return net, found


def check_processor(transformers, path, network):
    """A picture whose short side needs no resizing is cropped and normalised as jssl does."""
    pixels = preprocessing(network.config)
    size, short = pixels["size"], int(pixels["size"] / pixels["crop"])
    picture = np.random.default_rng(0).integers(0, 256, (short, short + 20, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    found = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
    assert found.shape == (3, size, size)
    top, left = (short - size) // 2, (short + 20 - size) // 2
    expected = picture[top : top + size, left : left + size].astype(np.float32) / 255
    expected = (expected - np.float32(pixels["mean"])) / np.float32(pixels["std"])
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, rtol=0, atol=2e-6)


def saved_again(net, folder):
    """The tensors that transformers writes of the net: under the names on disk."""
    from safetensors.numpy import load_file

    net.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def record(golden):
    import torch
    from safetensors.numpy import load_file

    lines, configs, outputs = [], {}, {}
    folder = Path(tempfile.mkdtemp())
    for kind in KINDS:
        run = drawn_run(config_of(kind), folder / kind)
        for form, load in (("timm", timm_outputs), ("hf", hf_outputs)):
            try:
                network, (path,) = convert.export_run(run, folder / f"{kind}_{form}", form)
            except UserError as error:
                print(f"{kind:16} {form:12} refused: {str(error)[:70]}")
                continue
            tensors = load_file(path / "model.safetensors")
            net, found = load(torch, path, network)
            if form == "timm":
                state = {k: v.numpy() for k, v in net.state_dict().items()}
            else:
                state = saved_again(net, folder / f"{kind}_again")
            rows = [compare_tensors(state, tensors)]
            rows += compare_outputs(found, jssl_outputs(network))
            outputs |= {f"{kind}_{form}_{name}": value for name, value in found.items()}
            print(f"{kind:16} {form:12} {', '.join(rows)}")
            for name, tensor in tensors.items():
                shape = "x".join(map(str, tensor.shape)) or "scalar"
                lines.append(f"{kind} {form} {name} {shape}")
            configs[f"{kind}_{form}"] = json.loads((path / "config.json").read_text())
            if form == "timm":
                check_torch(torch, folder, kind, run, tensors)
        check_onnx(folder, kind, run)
    (golden / "exports_names.txt").write_text("\n".join(lines) + "\n")
    (golden / "exports_configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(golden / "exports_outputs.npz", **outputs)


def check_onnx(folder, kind, run):
    """What onnxruntime computes; every kind has such a file."""
    import onnxruntime

    network, (path, _) = convert.export_run(run, folder / f"{kind}.onnx", "onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    images = pictures(preprocessing(network.config)["size"])
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    print(f"{kind:16} onnx         {', '.join(compare_outputs(found, jssl_outputs(network)))}")


def check_torch(torch, folder, kind, run, tensors):
    """The .pth and the safetensors file hold the same tensors as the folder."""
    from safetensors.torch import load_file

    for form, ending in (("torch", "pth"), ("safetensors", "safetensors")):
        try:
            _, (path, _) = convert.export_run(run, folder / f"{kind}.{ending}", form)
        except UserError as error:
            print(f"{kind:16} {form:12} refused: {str(error)[:70]}")
            continue
        loaded = torch.load(path, weights_only=True) if form == "torch" else load_file(path)
        assert loaded.keys() == tensors.keys()
        assert all(np.array_equal(loaded[name].numpy(), tensors[name]) for name in tensors)
        print(f"{kind:16} {form:12} tensors 0")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
