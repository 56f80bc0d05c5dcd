"""Settings of CMC (https://arxiv.org/abs/1906.05849)."""

from typing import Any

from jssl.optim.masks import EVERYTHING

# Crop and mirror, no colour: 0.08 for ResNets on ImageNet, 0.2 for AlexNet and ImageNet-100.
_CROP = {"sampler": "torchvision", "resize": "bilinear", "antialias": True}
_OPTIM = {
    "name": "sgd",
    "lr": 0.03,
    "lr_scaling": "none",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "rules": EVERYTHING,
    "schedule": "step",
    "boundaries": (120.0, 160.0, 200.0),
    "warmup_epochs": 0.0,
}


def _preset(width: float, low: float, **own: Any) -> dict[str, Any]:
    return {
        "batch_size": 128,
        "epochs": 240.0,
        "model": {
            "name": "resnet50",
            "width": width,
            "stem_width_fixed": True,
            "bn_groups": 4,  # the README's four GPUs
            "bn_unbiased_running_var": True,
        },
        "augment": {"name": "crop_flip", "options": {**_CROP, "scale": (low, 1.0)}},
        "optim": _OPTIM,
        "cmc": own,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "v1": _preset(0.5, 0.08),  # resnet50v1: half the width for each view
    "v2": _preset(1.0, 0.08),
    "v3": _preset(2.0, 0.08),
    "imagenet100": _preset(0.5, 0.2, views=("y", "cbcr"), contrast="softmax"),
    "alexnet": {  # one GPU
        **_preset(1.0, 0.2),
        "batch_size": 256,
        "model": {"name": "alexnet_half", "bn_unbiased_running_var": True},
    },
}
