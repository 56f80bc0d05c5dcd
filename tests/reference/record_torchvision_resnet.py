"""Records what torchvision's ResNets compute, for tests/models/test_resnet.py.

    python tests/reference/record_torchvision_resnet.py tests/golden/resnet_torchvision.npz

Needs torch and torchvision (recorded with 2.14.1 and 0.29.1). The weights are no file: both sides
draw each tensor from a generator seeded by its torchvision name (`weights_of`), in torch's layout.
"""

import sys
import zlib

import numpy as np


def weights_of(name, shape):
    """The tensor of a torchvision name: He-like kernels, batch statistics far from their start."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        fan_out = shape[0] * shape[2] * shape[3]
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_out)).astype(np.float32)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if name.endswith("weight"):
        return rng.uniform(0.3, 0.9, shape).astype(np.float32)
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)


def record(path):
    import torch
    import torchvision

    out = {}
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    out["images"] = images
    for name in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, name)()
        net.fc = torch.nn.Identity()
        state = net.state_dict()
        for key, value in state.items():
            if value.ndim:
                state[key] = torch.from_numpy(weights_of(key, tuple(value.shape)))
        net.load_state_dict(state)
        x = torch.from_numpy(images)
        sums = {}
        for layer in range(1, 5):
            getattr(net, f"layer{layer}").register_forward_hook(
                lambda m, i, o, layer=layer, sums=sums: sums.update(
                    {layer: o.detach().sum((2, 3)).numpy()}
                )
            )
        net.eval()
        with torch.no_grad():
            out[f"{name}_eval"] = net(x).numpy()
        for layer, value in sums.items():
            out[f"{name}_layer{layer}"] = value
        net.train()
        with torch.no_grad():
            out[f"{name}_train"] = net(x).numpy()
        out[f"{name}_mean"] = net.layer4[-1].bn2.running_mean.numpy()
        out[f"{name}_bn1_var"] = net.bn1.running_var.numpy()
    np.savez_compressed(path, **out)


if __name__ == "__main__":
    record(sys.argv[1])
