"""Settings of SimCLR (https://arxiv.org/abs/2002.05709) and SimCLRv2 (https://arxiv.org/abs/2006.10029)."""

from typing import Any

# SimCLR's ResNet: a projection shortcut opens every group, max-pool pads as TensorFlow's SAME.
_MODEL = {
    "shortcut": "always",
    "pool_padding": "same",
    "kernel_init": "lecun",
    "zero_init_last_gamma": True,
}
_OPTIM = {"name": "lars", "order": "lr_inside", "momentum": 0.9, "schedule": "cosine"}
PRESETS: dict[str, dict[str, Any]] = {
    "v1": {  # the paper: batch 4096, linear scaling 0.3 B/256, weight decay 1e-6
        "updates": "examples_and_one",
        "batch_size": 4096,
        "model": {"name": "resnet50", "stem": "imagenet", **_MODEL},
        "augment": {"name": "simclr", "options": {"brightness": "additive"}},
        "optim": {**_OPTIM, "lr": 0.3, "lr_scaling": "linear", "weight_decay": 1e-6,
                  "warmup_epochs": 10.0},
        "simclr": {"temperature": 0.1, "proj_layers": 2},
    },
    "v2": {  # three layers, square-root scaling 0.1 sqrt(B), weight decay 1e-4, 5 % of 800 epochs
        "updates": "examples_and_one",
        "batch_size": 4096,
        "epochs": 800.0,
        "model": {"name": "resnet50", "stem": "imagenet", **_MODEL},
        "augment": {"name": "simclr", "options": {"brightness": "multiplicative"}},
        "optim": {**_OPTIM, "lr": 0.1, "lr_scaling": "sqrt", "weight_decay": 1e-4,
                  "warmup_epochs": 40.0},
        "simclr": {"temperature": 0.1, "proj_layers": 3},
    },
    "cifar": {  # the official README's CIFAR-10 command
        "updates": "examples_and_one",
        "batch_size": 512,
        "epochs": 1000.0,
        "model": {"name": "resnet18", "stem": "cifar", **_MODEL},
        "augment": {"name": "simclr_cifar", "size": 32},
        "optim": {**_OPTIM, "lr": 1.0, "lr_scaling": "linear", "weight_decay": 1e-4,
                  "warmup_epochs": 10.0},
        "simclr": {"temperature": 0.5, "proj_layers": 2},
    },
}  # fmt: skip
