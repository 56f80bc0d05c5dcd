"""Records what torchvision's Faster R-CNN computes on a small network, for tests/models.

    python tests/reference/record_rcnn.py tests/golden/rcnn_torchvision.npz

Needs torch and torchvision (recorded with 2.14.1 and 0.29.1). torchvision's own detector differs
from detectron2's R50-C4 in its anchors, the loss's beta, RoIAlign and the head: these are given to
it here. Parameters have jssl's names and values by name, see `value_of`, and are not stored.
"""

import sys
import zlib

import numpy as np
from record_torchvision_resnet import weights_of

BLOCKS, DIVISOR, CLASSES = (1, 1, 1, 1), 8, 5
SIZE = (96, 128)
SIZES, RATIOS = (16.0, 32.0, 64.0), (0.5, 1.0, 2.0)
BEFORE, AFTER = 150, 60
SCALES = {"rpn_head.logits": 5.0, "rpn_head.deltas": 2.0, "bbox_pred": 5.0, "cls_score": 1.0}


def value_of(name, shape):
    """The value of a parameter 'MODULE.kernel' or 'MODULE.bias' of jssl, in jssl's layout."""
    module, _, leaf = name.rpartition(".")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fan_in = np.prod(shape[:-1]) if leaf == "kernel" else 25
    scale = SCALES.get(module, 1.0) / np.sqrt(fan_in)
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def small_resnet(torch, torchvision):
    """A ResNet of bottleneck blocks with an eighth of the channels."""
    resnet = torchvision.models.resnet

    class Small(resnet.ResNet):
        def _make_layer(self, block, planes, *args, **kwargs):
            if planes == 64:
                self.inplanes = 64 // DIVISOR
                self.conv1 = torch.nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
                self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
            return super()._make_layer(block, planes // DIVISOR, *args, **kwargs)

    net = Small(resnet.Bottleneck, BLOCKS)
    state = {k: torch.from_numpy(weights_of(k, tuple(v.shape))) if v.ndim else v
             for k, v in net.state_dict().items()}  # fmt: skip
    net.load_state_dict(state)
    return net


def load(torch, layer, name):
    """Gives a convolution or linear layer its values."""
    weight = tuple(layer.weight.shape)
    shape = (*weight[2:], weight[1], weight[0])  # [kh,kw,in,out] or [in,out]
    value = value_of(f"{name}.kernel", shape)
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    layer.weight.data = torch.from_numpy(value.copy())
    if layer.bias is None:
        return
    layer.bias.data = torch.from_numpy(value_of(f"{name}.bias", (weight[0],)))


def detector(torch, torchvision):
    """torchvision's FasterRCNN with detectron2's choices."""
    from torchvision.models import detection
    from torchvision.models.detection import rpn

    net = small_resnet(torch, torchvision)
    width = 256 // DIVISOR * 4
    trunk = torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2,
                                net.layer3)  # fmt: skip
    trunk.out_channels = width

    anchors = rpn.AnchorGenerator((SIZES,), (RATIOS,))
    cell = []
    for size in SIZES:
        for ratio in RATIOS:
            h, w = size * np.sqrt(ratio), size / np.sqrt(ratio)
            cell.append([-w / 2, -h / 2, w / 2, h / 2])
    anchors.cell_anchors = [torch.tensor(cell, dtype=torch.float32)]

    head = rpn.RPNHead(width, len(cell))
    load(torch, head.conv[0][0], "rpn_head.conv")
    load(torch, head.cls_logits, "rpn_head.logits")
    load(torch, head.bbox_pred, "rpn_head.deltas")

    class Align(torchvision.ops.MultiScaleRoIAlign):
        def forward(self, features, proposals, shapes):
            return torchvision.ops.roi_align(features["0"], proposals, 14, 1 / 16, -1, True)

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.group, self.norm = net.layer4, torch.nn.BatchNorm2d(512 // DIVISOR * 4)
            state = {k: torch.from_numpy(weights_of(f"head_norm.{k}", tuple(v.shape)))
                     if v.ndim else v for k, v in self.norm.state_dict().items()}  # fmt: skip
            self.norm.load_state_dict(state)

        def forward(self, x):
            return self.norm(self.group(x)).mean((2, 3))

    class Predictor(torch.nn.Module):
        """jssl's order of classes to torchvision's, whose background is the first."""

        def __init__(self):
            super().__init__()
            features = 512 // DIVISOR * 4
            self.cls = torch.nn.Linear(features, CLASSES + 1)
            self.box = torch.nn.Linear(features, 4 * CLASSES)
            load(torch, self.cls, "cls_score")
            load(torch, self.box, "bbox_pred")

        def forward(self, x):
            deltas = self.box(x)
            return torch.roll(self.cls(x), 1, 1), torch.cat([deltas[:, :4] * 0, deltas], 1)

    return detection.FasterRCNN(
        trunk, rpn_anchor_generator=anchors, rpn_head=head,
        box_roi_pool=Align(["0"], 14, 2), box_head=Head(), box_predictor=Predictor(),
        min_size=SIZE[0], max_size=SIZE[1], image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_pre_nms_top_n_train=BEFORE, rpn_pre_nms_top_n_test=BEFORE,
        rpn_post_nms_top_n_train=AFTER, rpn_post_nms_top_n_test=AFTER, rpn_batch_size_per_image=64,
        box_batch_size_per_image=32, box_detections_per_img=20)  # fmt: skip


def record(path):
    import torch
    import torchvision
    from torch.nn import functional
    from torchvision.models.detection import roi_heads

    torch.manual_seed(0)
    net = detector(torch, torchvision).eval()
    rng = np.random.default_rng(0)
    # Coarse structure, so that regions differ.
    coarse = rng.normal(0, 30, (1, 3, 12, 16)).repeat(8, 2).repeat(8, 3)
    image = np.clip(coarse + rng.normal(0, 10, (1, 3, *SIZE)), -127, 127).astype(np.int8)
    x = torch.from_numpy(image.astype(np.float32) / 32)
    out = {"image": image[0].transpose(1, 2, 0)}

    seen = {}
    net.rpn.head.register_forward_hook(lambda m, i, o: seen.update(rpn=o))
    net.rpn.register_forward_hook(lambda m, i, o: seen.update(proposals=o[0]))
    net.roi_heads.box_predictor.register_forward_hook(lambda m, i, o: seen.update(box=o))
    with torch.no_grad():
        net([x[0]])
        # Drawn features are much alike: standardised, the regions have different classes.
        layer, logits = net.roi_heads.box_predictor.cls, seen["box"][0].roll(-1, 1)
        layer.bias -= logits.mean(0)
        scale = 1.5 / logits.std(0)
        layer.weight *= scale[:, None]
        layer.bias *= scale
        out |= {"class_bias": layer.bias.numpy().copy(), "class_scale": scale.numpy()}
        (detected,) = net([x[0]])
    logits, deltas = (t[0] for t in seen["rpn"])
    A = len(SIZES) * len(RATIOS)
    h, w = logits.shape[2:]
    out["rpn_logits"] = logits[0].permute(1, 2, 0).reshape(-1).numpy()
    out["rpn_deltas"] = deltas[0].reshape(A, 4, h, w).permute(2, 3, 0, 1).reshape(-1, 4).numpy()
    scores, boxes = seen["box"]
    out |= {"proposals": seen["proposals"][0].numpy(), "class_logits": scores.roll(-1, 1).numpy(),
            "box_deltas": boxes.numpy()[:, 4:].reshape(-1, CLASSES, 4),
            "boxes": detected["boxes"].numpy(), "scores": detected["scores"].numpy(),
            "labels": detected["labels"].numpy() - 1}  # fmt: skip

    # The losses of given samples, with the L1 loss instead of torchvision's beta of 1/9.
    targets = [{"boxes": torch.tensor([[10.0, 12, 60, 70], [50, 5, 120, 90], [80, 60, 100, 80]]),
                "labels": torch.tensor([2, 5, 1])}]  # fmt: skip
    out |= {"objects": targets[0]["boxes"].numpy(), "classes": targets[0]["labels"].numpy() - 1}
    smooth = functional.smooth_l1_loss
    functional.smooth_l1_loss = lambda a, b, beta, reduction: smooth(
        a, b, reduction=reduction, beta=0.0
    )
    sampler = net.rpn.fg_bg_sampler

    def sampled(matched):
        positive, negative = sampler(matched)
        out["rpn_matched"] = matched[0].numpy().astype(np.int8)  # 1, 0, -1 (ignored)
        out["rpn_rows"] = torch.cat([torch.where(p[0])[0] for p in (positive, negative)]).numpy()
        out["rpn_positives"] = int(positive[0].sum())
        return positive, negative

    net.rpn.fg_bg_sampler = sampled
    loss = roi_heads.fastrcnn_loss

    def head_loss(logits, deltas, labels, goals):
        out["sampled_labels"] = (labels[0].numpy() - 1) % (CLASSES + 1)
        out["sampled_targets"] = goals[0].numpy()
        return loss(logits, deltas, labels, goals)

    roi_heads.fastrcnn_loss = head_loss
    net.roi_heads.box_roi_pool.register_forward_hook(
        lambda m, i, o: out.update(sampled_boxes=i[1][0].numpy())
    )
    net.rpn.training = net.roi_heads.training = net.training = True  # the norms stay as they are
    net.transform.training = True
    with torch.no_grad():
        losses = net([x[0]], targets)
    out |= {f"loss_{k}": v.numpy() for k, v in losses.items()}
    print({k: float(v) for k, v in losses.items()}, len(out["boxes"]), out["rpn_positives"])
    for key, value in out.items():
        print(key, np.shape(value), np.asarray(value).dtype, np.abs(value).max())
    np.savez_compressed(path, **out | segmentation(torch, torchvision))


def segmentation(torch, torchvision):
    """The dilated network of MoCo's and BYOL's segmentation, and torch's loss of its logits."""
    from torch.nn import functional

    net = small_resnet(torch, torchvision)
    for block in net.layer4:
        block.conv2.dilation, block.conv2.padding, block.conv2.stride = (2, 2), (2, 2), (1, 1)
    net.layer4[0].downsample[0].stride = (1, 1)
    width, features = 512 // DIVISOR * 4, 12
    layers = []
    for i in range(2):
        conv = torch.nn.Conv2d(width, features, 3, padding=6, dilation=6, bias=False)
        load(torch, conv, f"segmentation.conv{i}")
        norm = torch.nn.BatchNorm2d(features)
        state = {k: torch.from_numpy(weights_of(f"segmentation.bn{i}.{k}", tuple(v.shape)))
                 if v.ndim else v for k, v in norm.state_dict().items()}  # fmt: skip
        norm.load_state_dict(state)
        layers += [conv, norm, torch.nn.ReLU()]
        width = features
    score = torch.nn.Conv2d(features, CLASSES, 1)
    load(torch, score, "segmentation.score")
    trunk = torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2,
                                net.layer3, net.layer4, *layers, score).eval()  # fmt: skip
    rng = np.random.default_rng(1)
    image = rng.integers(-127, 128, (1, 3, 49, 81)).astype(np.int8)
    label = rng.integers(0, CLASSES, (1, 49, 81))
    label[rng.random(label.shape) < 0.2] = 255
    with torch.no_grad():
        maps = trunk(torch.from_numpy(image.astype(np.float32) / 32))
        logits = functional.interpolate(maps, size=image.shape[2:], mode="bilinear",
                                        align_corners=False)  # fmt: skip
        loss = functional.cross_entropy(logits, torch.from_numpy(label), ignore_index=255)
    print("segmentation", maps.shape, float(maps.std()), float(loss))
    return {"fcn_image": image[0].transpose(1, 2, 0), "fcn_label": label[0].astype(np.uint8),
            "fcn_logits": logits[0].permute(1, 2, 0)[::2, ::2].numpy(),
            "fcn_loss": loss.numpy()}  # fmt: skip


if __name__ == "__main__":
    record(sys.argv[1])
