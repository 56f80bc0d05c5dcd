"""Settings of CPC v2 (https://arxiv.org/abs/1905.09272)."""

from typing import Any

_OPTIM = {
    "name": "adamw",
    "lr": 4e-4,
    "lr_scaling": "none",
    "betas": (0.8, 0.999),
    "weight_decay": 0.0,
    "clip_norm": 0.01,
    "schedule": "constant",
    "warmup_epochs": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {  # resized to 300, random crop of 260: an area of .75
        "batch_size": 512,
        "epochs": 200.0,
        "model": {"name": "resnet161", "norm": "gn1"},
        "augment": {
            "name": "crop_flip",
            "size": 260,
            "options": {"scale": (0.75, 0.75), "ratio": (1.0, 1.0)},
        },
        "optim": _OPTIM,
    },
    "cifar": {  # lightning-bolts' grid; 8 px patches are too small for a 7x7 stem
        "batch_size": 64,
        "epochs": 1000.0,
        "model": {"name": "resnet50", "stage_sizes": (3, 4, 6), "stem": "cifar", "norm": "gn1"},
        "augment": {
            "name": "crop_flip",
            "size": 32,
            "options": {"scale": (0.75, 1.0), "ratio": (1.0, 1.0)},
        },
        "optim": {**_OPTIM, "lr": 4e-5},
        "cpc": {"patch": 8, "stride": 4, "average_momentum": 0.999},
    },
}
