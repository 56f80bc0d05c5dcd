"""Records what transformers' networks compute, for tests/convert/test_transformers.py.

    python tests/reference/record_transformers.py tests/golden

Needs torch and transformers (recorded with 2.14.1 and 5.24.0). Each net is saved by its library.
The names and shapes on disk go to transformers_names.txt, the config.json files to
transformers_configs.json, the outputs to transformers_outputs.npz. The values are drawn by the
names on disk, see record_weights.py.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from record_weights import drawn


def models(t):
    vit = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3,
           "intermediate_size": 768, "image_size": 64, "patch_size": 16, "num_labels": 10,
           "layer_norm_eps": 1e-6}  # fmt: skip
    beit = {**vit, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
            "layer_scale_init_value": 0.1}  # fmt: skip
    return {
        "vit": t.ViTForImageClassification(t.ViTConfig(**vit)),
        "deit": t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**vit)),
        "beit": t.BeitForImageClassification(
            t.BeitConfig(**beit, use_relative_position_bias=True, use_mean_pooling=True)
        ),
        "beit_pretrained": t.BeitForMaskedImageModeling(
            t.BeitConfig(**beit, use_shared_relative_position_bias=True, use_mask_token=True,
                         vocab_size=32)
        ),
        "efficientnet": t.EfficientNetForImageClassification(
            t.EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
                                 image_size=64, num_labels=10)
        ),
        "resnet": t.ResNetForImageClassification(
            t.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
                           layer_type="basic", num_labels=10)
        ),
        "regnet": t.RegNetForImageClassification(
            t.RegNetConfig(hidden_sizes=[48, 104, 208, 440], depths=[1, 3, 6, 6], groups_width=8,
                           layer_type="y", num_labels=10)
        ),
    }  # fmt: skip


def record(folder):
    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    lines, configs, out = [], {}, {"images": images}
    for kind, net in models(transformers).items():
        with tempfile.TemporaryDirectory() as saved:
            net.save_pretrained(saved)
            file = Path(saved) / "model.safetensors"
            tensors = load_file(file)
            for name, value in tensors.items():
                lines.append(f"{kind} {name} {'x'.join(map(str, value.shape)) or 'scalar'}")
                tensors[name] = drawn(name, value.shape)
            save_file(tensors, file, {"format": "pt"})
            config = json.loads((Path(saved) / "config.json").read_text())
            config.pop("transformers_version", None)
            configs[kind] = config
            net = type(net).from_pretrained(saved).eval()
        with torch.no_grad():
            result = net(torch.from_numpy(images))
        out[kind] = result.logits.numpy()
        print(kind, len(tensors), out[kind].shape, np.abs(out[kind]).max())
    (folder / "transformers_names.txt").write_text("\n".join(lines) + "\n")
    (folder / "transformers_configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(folder / "transformers_outputs.npz", **out)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
