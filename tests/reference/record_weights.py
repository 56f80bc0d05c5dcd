"""Records what the networks of published weights files compute, for tests/convert/test_families.py.

    python tests/reference/record_weights.py tests/golden

Needs torch, torchvision and timm (recorded with 2.14.1, 0.29.1 and 1.0.31). It writes
weights_names.txt, the names and shapes of every state dict, and weights_outputs.npz. The weights
are no file: both sides draw each tensor from a generator seeded by its name, `weights_of`.
"""

import sys
from pathlib import Path

import numpy as np
from record_torchvision_resnet import weights_of


def drawn(name, shape):
    """The tensor of a name in torch's layout; a counter of batches is 0."""
    if not shape and name.endswith("num_batches_tracked"):
        return np.zeros((), np.int64)
    if len(shape) == 2:  # dense layers
        return weights_of(f"{name}.", (*shape, 1, 1)).reshape(shape)
    return weights_of(name, tuple(shape))


def moco(torch, torchvision, mlp):
    """The state dict of MoCo's builder with two ResNet-18s, under DistributedDataParallel."""
    net = torch.nn.Module()
    for name in ("encoder_q", "encoder_k"):
        encoder = torchvision.models.resnet18(num_classes=16)
        if mlp:
            encoder.fc = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), encoder.fc)
        setattr(net, name, encoder)
    net.register_buffer("queue", torch.zeros(16, 24))
    net.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    whole = torch.nn.Module()
    whole.module = net
    return whole


def mlp(torch, *widths, last=True):
    """MoCo v3's projector or predictor: no biases, each layer with BN, the last without affine."""
    layers = []
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(torch.nn.Linear(inputs, outputs, bias=False))
        if i < len(widths) - 2:
            layers += [torch.nn.BatchNorm1d(outputs), torch.nn.ReLU()]
        elif last:
            layers.append(torch.nn.BatchNorm1d(outputs, affine=False))
    return torch.nn.Sequential(*layers)


def moco_v3(torch, encoder, head, widths, last):
    """The state dict of MoCo v3's builder with two encoders, under DistributedDataParallel."""
    net = torch.nn.Module()
    for name in ("base_encoder", "momentum_encoder"):
        made = encoder()
        setattr(made, head, mlp(torch, *widths))
        setattr(net, name, made)
    net.predictor = mlp(torch, widths[-1], widths[1], widths[-1], last=last)
    whole = torch.nn.Module()
    whole.module = net
    return whole


def positions(grid, dim):
    """MoCo v3's fixed positions, [1, 1 + grid^2, dim]; those of the class token are 0."""
    places = np.arange(grid, dtype=np.float32)
    down, across = (x.ravel() for x in np.meshgrid(places, places, indexing="ij"))
    omega = 1 / 10000 ** (np.arange(dim // 4, dtype=np.float32) / (dim // 4))
    parts = [f(np.outer(p, omega)) for p in (down, across) for f in (np.sin, np.cos)]
    whole = np.concatenate(parts, axis=1)
    return np.concatenate([np.zeros((1, dim)), whole])[None].astype(np.float32)


def record(folder):
    import timm
    import torch
    import torchvision

    torch.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    nets = {
        "moco_v1": moco(torch, torchvision, False),
        "moco_v2": moco(torch, torchvision, True),
        "resnet18": torchvision.models.resnet18(num_classes=10),
        "resnet50": torchvision.models.resnet50(num_classes=10),
        "tf_efficientnet_b0": timm.create_model("tf_efficientnet_b0", num_classes=10),
        "moco_v3": moco_v3(torch, torchvision.models.resnet18, "fc", (512, 24, 16), last=False),
        "moco_v3_vit": moco_v3(
            torch,
            lambda: timm.create_model("vit_small_patch16_224", num_heads=12, img_size=64, depth=2),
            "head",
            (384, 24, 24, 16),
            last=True,
        ),
        "deit_distilled": timm.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=10, img_size=64
        ),
        "deit": timm.create_model("deit_tiny_patch16_224", num_classes=10, img_size=64, depth=2),
        "beit": timm.create_model("beit_base_patch16_224", num_classes=10, img_size=64, depth=2),
    }
    lines, out = [], {"images": images}
    for kind, net in nets.items():
        state = net.state_dict()
        for name, value in state.items():
            lines.append(f"{kind} {name} {'x'.join(map(str, value.shape)) or 'scalar'}")
            if name.endswith("pos_embed") and kind == "moco_v3_vit":
                state[name] = torch.from_numpy(positions(4, 384))
            elif "queue" not in name:
                state[name] = torch.from_numpy(drawn(name, tuple(value.shape)))
        net.load_state_dict(state)
        net.eval()
        query = net
        if kind.startswith("moco"):
            query = getattr(net.module, "base_encoder" if "v3" in kind else "encoder_q")
        with torch.no_grad():
            out[kind] = query(torch.from_numpy(images)).numpy()
        print(kind, len(state), np.abs(out[kind]).max())
    (folder / "weights_names.txt").write_text("\n".join(lines) + "\n")
    np.savez_compressed(folder / "weights_outputs.npz", **out)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
