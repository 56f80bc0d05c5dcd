"""Records torchvision's EfficientNet-B0 and DeepCluster's AlexNet and VGG-16 on seeded weights.

    python tests/reference/record_efficientnet_plain.py tests/golden/efficientnet_plain_torch.npz

For tests/models/test_efficientnet.py and test_alexnet_vgg.py. Needs torch and torchvision
(recorded with 2.14.1 and 0.29.1). Weights and images are no files: both sides draw each tensor
from a generator seeded by its name (`weights_of`), in torch's layout.

EfficientNet: torchvision pads symmetrically and TensorFlow pads SAME. Where a strided
convolution's input has an ODD size the two agree, and 33 pixels give odd sizes throughout (33, 17,
9, 5, 3): `odd` is torchvision untouched but for BN's epsilon of 1e-3 and no stochastic depth.
`even`, at 32 pixels, is the same network with each strided convolution padded by TensorFlow's rule,
written out here: (size / 2 - 1) * 2 + kernel - size in all, the smaller half above and left.

AlexNet and VGG-16: the networks of https://github.com/facebookresearch/deepcluster in this file's
own words, from the layer tables of their papers, with a `width` that keeps them small.
"""

import functools
import sys
import zlib

import numpy as np

PLAIN = {  # name: side of the image, multiplier of the width
    "alexnet": (95, 1 / 16),
    "vgg16": (64, 1 / 16),
}


def weights_of(name, shape):
    """The tensor of a name: He-like kernels, batch statistics far from their start."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:  # a depthwise kernel has one input channel and its own fan
        fan = shape[2] * shape[3] * (1 if shape[1] == 1 else shape[0])
        return (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
    if len(shape) == 2:
        return (rng.standard_normal(shape) * np.sqrt(2 / shape[1])).astype(np.float32)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if name.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)


def images_of(side, count=2):
    """float32 [count,3,side,side], of contrasts 1, 2, ..., as deep averages of noise are alike."""
    contrast = np.arange(1, count + 1).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(side).standard_normal((count, 3, side, side))
    return (contrast * noise).astype(np.float32)


def fill(net, prefix):
    import torch

    state = net.state_dict()
    for key, value in state.items():
        if value.ndim and not key.startswith("sobel"):
            state[key] = torch.from_numpy(weights_of(f"{prefix}.{key}", tuple(value.shape)))
    net.load_state_dict(state)
    return net


def same(conv, inputs):
    """A forward pre-hook: TensorFlow's SAME padding of a strided convolution."""
    import torch

    pads = []
    for size in reversed(inputs[0].shape[2:]):
        kernel = conv.kernel_size[0]
        total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return (torch.nn.functional.pad(inputs[0], pads),)


def record_efficientnet(out):
    import torch
    import torchvision

    norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    for case, side in (("odd", 33), ("even", 32)):
        net = torchvision.models.efficientnet_b0(norm_layer=norm, stochastic_depth_prob=0.0)
        net.classifier = torch.nn.Identity()
        fill(net, "efficientnet")
        if case == "even":
            for module in net.modules():
                if isinstance(module, torch.nn.Conv2d) and module.stride == (2, 2):
                    module.padding = (0, 0)
                    module.register_forward_pre_hook(same)
        sums = {}
        for i, stage in enumerate(net.features):
            stage.register_forward_hook(
                lambda m, x, y, i=i, sums=sums: sums.update({i: y.sum((2, 3)).numpy()})
            )
        x = torch.from_numpy(images_of(side))
        with torch.no_grad():
            out[f"efficientnet_{case}"] = net.eval()(x).numpy()
            for i, value in sums.items():
                out[f"efficientnet_{case}_{i}"] = value
            if case == "odd":
                out["efficientnet_train"] = net.train()(x).numpy()
                out["efficientnet_stem_mean"] = net.features[0][1].running_mean.numpy()
                out["efficientnet_stem_var"] = net.features[0][1].running_var.numpy()


def plain(name, width):
    """A torch module with `sobel`, `features` and `classifier` up to the last ReLU."""
    import torch
    from torch import nn

    def wide(channels):
        return round(channels * width)

    if name == "alexnet":
        convs = [(96, 11, 4, 2), "M", (256, 5, 1, 2), "M", (384, 3, 1, 1), (384, 3, 1, 1)]
        convs, pool, cells = [*convs, (256, 3, 1, 1), "M"], nn.MaxPool2d(3, 2), 2 * 2
    else:
        convs = []
        for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            convs += [(channels, 3, 1, 1)] * count + ["M"]
        pool, cells = nn.MaxPool2d(2, 2), 2 * 2
    layers, before = [], 2
    for conv in convs:
        if conv == "M":
            layers.append(pool)
            continue
        layers.append(nn.Conv2d(before, wide(conv[0]), *conv[1:]))
        before = wide(conv[0])
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
    net = nn.Module()
    net.sobel = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1))
    net.features = nn.Sequential(*layers)
    fc6 = nn.Linear(before * cells, wide(4096))
    net.classifier = nn.Sequential(fc6, nn.ReLU(), nn.Linear(wide(4096), wide(4096)))
    with torch.no_grad():
        net.sobel[0].weight.fill_(1 / 3)
        across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        net.sobel[1].weight.copy_(torch.stack([across, across.T])[:, None])
        for part in net.sobel:
            part.bias.zero_()
    return net


def record_plain(out):
    import torch

    for name, (side, width) in PLAIN.items():
        net = fill(plain(name, width), name)
        x = torch.from_numpy(images_of(side))
        for mode in ("eval", "train"):
            net.train(mode == "train")
            with torch.no_grad():
                y, count = net.sobel(x), 0
                if mode == "eval":
                    out[f"{name}_sobel"] = y.numpy()[:1, :, :16, :16]
                for layer in net.features:
                    y = layer(y)
                    if isinstance(layer, torch.nn.ReLU) and mode == "eval":
                        count += 1
                        out[f"{name}_conv{count}"] = y.sum((2, 3)).numpy()
                out[f"{name}_{mode}"] = net.classifier(y.flatten(1)).numpy()
    return out


if __name__ == "__main__":
    arrays = {}
    record_efficientnet(arrays)
    record_plain(arrays)
    np.savez_compressed(sys.argv[1], **arrays)
