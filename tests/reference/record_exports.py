"""Holds what jssl exports against timm and torch, and records it for tests/convert/test_export.py.

    python tests/reference/record_exports.py tests/golden

Needs jssl, torch, timm and transformers (recorded with 2.14.1, 1.0.31 and 5.24.0). Every kind of
`tests/convert/export_runs.py` is exported, loaded by the other library and run on the same
pictures. It asserts that all tensors are equal and that outputs differ by at most 1e-5 of the
largest, prints a table, and writes the names and shapes (exports_names.txt), the config.json files
that were loaded (exports_configs.json) and the other library's outputs (exports_outputs.npz).
"""

import json
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


def compare_tensors(net, tensors):
    """The largest difference of the tensors; every tensor of the net is among them."""
    state = {k: v.numpy() for k, v in net.state_dict().items() if "num_batches_tracked" not in k}
    assert state.keys() == tensors.keys(), set(state) ^ set(tensors)
    return max(float(np.abs(state[name] - tensors[name]).max()) for name in state)


def jssl_outputs(network):
    images = pictures(preprocessing(network.config)["size"])
    features, named = jax.jit(network.embed)(network.state, images)
    return {"features": np.asarray(features), "logits": np.asarray(named.get("logits", ()))}


def record(golden):
    import torch
    from safetensors.numpy import load_file

    lines, configs, outputs = [], {}, {}
    folder = Path(tempfile.mkdtemp())
    for kind in KINDS:
        run = drawn_run(config_of(kind), folder / kind)
        try:
            network, (path,) = convert.export_run(run, folder / f"{kind}_timm", "timm")
        except UserError as error:
            print(f"{kind:16} timm         refused: {str(error)[:70]}")
            continue
        tensors = load_file(path / "model.safetensors")
        net, found = timm_outputs(torch, path, network)
        own = jssl_outputs(network)
        difference = compare_tensors(net, tensors)
        assert difference == 0
        rows = []
        for name, value in found.items():
            error = float(np.abs(value - own[name]).max() / np.abs(value).max())
            assert error <= LIMIT, (kind, name, error)
            rows.append(f"{name} {error:.1e} of {np.abs(value).max():.3g}")
            outputs[f"{kind}_timm_{name}"] = value
        print(f"{kind:16} timm         tensors {difference:g}; {', '.join(rows)}")
        lines += [f"{kind} timm {n} {'x'.join(map(str, x.shape))}" for n, x in tensors.items()]
        configs[f"{kind}_timm"] = json.loads((path / "config.json").read_text())
        check_torch(torch, folder, kind, run, tensors)
    (golden / "exports_names.txt").write_text("\n".join(lines) + "\n")
    (golden / "exports_configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(golden / "exports_outputs.npz", **outputs)


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
