"""Records what torchvision's operators compute, for tests/dense.

    python tests/reference/record_dense.py tests/golden/dense_torchvision.npz

Needs torch and torchvision (recorded with 2.14.1 and 0.29.1).
"""

import sys

import numpy as np
from record_torchvision_resnet import weights_of


def boxes_of(rng, count, size, low=2.0, high=0.6):
    """Boxes in and partly out of a picture of `size` pixels."""
    centre = rng.uniform(-0.05 * size, 1.05 * size, (count, 2))
    side = np.exp(rng.uniform(np.log(low), np.log(high * size), (count, 2)))
    return np.concatenate([centre - side / 2, centre + side / 2], 1).astype(np.float32)


def clustered(rng, count, size):
    """Boxes around a few centres, as proposals are, and their scores."""
    first = boxes_of(rng, max(1, count // 20), size, low=16)
    boxes = np.repeat(first, 20, 0)[:count] + rng.normal(0, 6, (count, 4)).astype(np.float32)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]),
                            np.maximum(boxes[:, :2], boxes[:, 2:])], 1)  # fmt: skip
    return boxes.astype(np.float32), rng.permutation(count).astype(np.float32) / count


def record(path):
    import torch
    from torchvision import ops

    rng, out = np.random.default_rng(0), {}
    a, b = boxes_of(rng, 40, 300), boxes_of(rng, 30, 300)
    out |= {"iou_a": a, "iou_b": b, "iou": ops.box_iou(*map(torch.from_numpy, (a, b))).numpy()}
    for count in (2000, 12000):
        boxes, scores = clustered(np.random.default_rng(count), count, 800)
        kept = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.7).numpy()
        out[f"nms_{count}"] = kept.astype(np.int32)
        print(count, len(kept))
    features = rng.standard_normal((19, 25, 3)).astype(np.float32)
    regions = boxes_of(rng, 12, 19 * 16, high=1.2)
    out |= {"features": features, "regions": regions}
    x = torch.from_numpy(features.transpose(2, 0, 1)[None].copy())
    for aligned in (False, True):
        for ratio in (0, 2):
            y = ops.roi_align(x, [torch.from_numpy(regions)], 7, 1 / 16, ratio or -1, aligned)
            out[f"align_{aligned}_{ratio}"] = y.numpy().transpose(0, 2, 3, 1)
    y = ops.roi_pool(x, [torch.from_numpy(regions)], 7, 1 / 16)
    out["pool"] = y.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(path, **out | dilated(torch))


def dilated(torch):
    """torchvision's ResNet-50 whose last group has dilation 2 in every block and stride 1."""
    import torchvision

    net = torchvision.models.resnet50()
    state = {k: torch.from_numpy(weights_of(k, tuple(v.shape))) if v.ndim else v
             for k, v in net.state_dict().items()}  # fmt: skip
    net.load_state_dict(state)
    for block in net.layer4:
        block.conv2.dilation, block.conv2.padding, block.conv2.stride = (2, 2), (2, 2), (1, 1)
    net.layer4[0].downsample[0].stride = (1, 1)
    net.eval()
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 3, 65, 65), np.float32))
    with torch.no_grad():
        maps = net.relu(net.bn1(net.conv1(x)))
        maps = net.layer3(net.layer2(net.layer1(net.maxpool(maps))))
        out = net.layer4(maps)
    return {"dilated_images": x.numpy(), "dilated_sum": out.sum(1).numpy(),
            "dilated_mean": out.mean((2, 3)).numpy(), "trunk_sum": maps.sum(1).numpy()}  # fmt: skip


if __name__ == "__main__":
    record(sys.argv[1])
