"""Records what torchvision's RegNetY computes, for tests/models/test_regnet.py.

    python tests/reference/record_torchvision_regnet.py tests/golden/regnet_torchvision.npz

Needs torch and torchvision (recorded with 2.14.1 and 0.29.1). The net is a small one of the same
blocks; its weights are drawn as in record_torchvision_resnet.py. Parameter counts are of the whole
nets, with their classifiers.
"""

import sys

import numpy as np
from record_torchvision_resnet import weights_of

STAGES = ((1, 16, 8), (2, 24, 8))  # blocks, channels, channels of a group
NAMES = ("regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "regnet_y_16gf")


def record(path):
    import torch
    from torchvision.models import regnet

    blocks, widths, groups = map(list, zip(*STAGES, strict=True))
    params = regnet.BlockParams(blocks, widths, groups, [1.0, 1.0], [2, 2], 0.25)
    net = regnet.RegNet(params)
    net.fc = torch.nn.Identity()
    state = net.state_dict()
    for key, value in state.items():
        if value.ndim:
            state[key] = torch.from_numpy(weights_of(key, tuple(value.shape)))
    net.load_state_dict(state)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    out = {"images": images, "names": np.array(sorted(k for k in state if state[k].ndim))}
    with torch.no_grad():
        net.eval()
        out["eval"] = net(torch.from_numpy(images)).numpy()
        net.train()
        out["train"] = net(torch.from_numpy(images)).numpy()
    for name in NAMES:
        made = getattr(regnet, name)()
        out[name] = np.int64(sum(p.numel() for p in made.parameters()))
    np.savez_compressed(path, **out)


if __name__ == "__main__":
    record(sys.argv[1])
