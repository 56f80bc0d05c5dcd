"""Settings of BYOL (https://arxiv.org/abs/2006.07733)."""

from typing import Any

# Haiku's ResNet: SAME padding everywhere and a projection shortcut in every group. The last gamma
# of a block starts at 1, as in the paper's runs; today's Haiku has 0 in bottleneck blocks.
_MODEL = {
    "shortcut": "always",
    "padding": "same",
    "pool_padding": "same",
    "kernel_init": "haiku",
    "zero_init_last_gamma": False,
    "bn_momentum": 0.9,
    "bn_epsilon": 1e-5,
}
_OPTIM = {"name": "lars", "order": "lr_outside", "momentum": 0.9, "trust_coefficient": 1e-3,
          "schedule": "cosine", "lr_scaling": "linear", "warmup_epochs": 10.0}  # fmt: skip


def _imagenet(epochs: float, lr: float, weight_decay: float, tau: float) -> dict[str, Any]:
    """A row of configs/byol.py of the official code: ResNet-50, batch 4096."""
    return {
        "batch_size": 4096,
        "epochs": epochs,
        "updates": "examples",
        "model": {"name": "resnet50", "stem": "imagenet", **_MODEL},
        "augment": {"name": "byol", "size": 224, "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": lr, "weight_decay": weight_decay},
        "byol": {"ema_momentum": tau},
    }


PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": _imagenet(1000.0, 0.2, 1.5e-6, 0.996),
    "imagenet_300": _imagenet(300.0, 0.3, 1e-6, 0.99),
    "imagenet_100": _imagenet(100.0, 0.45, 1e-6, 0.99),
    "imagenet_40": _imagenet(40.0, 0.45, 1e-6, 0.97),
    "imagenette": {  # the official README's setup for fast iteration
        **_imagenet(1000.0, 2.0, 1e-6, 0.996),
        "batch_size": 256,
        "model": {"name": "resnet18", "stem": "imagenet", **_MODEL},
        "augment": {"name": "byol", "size": 128, "normalize": "imagenet"},
    },
    "cifar": {  # not the authors': solo-learn's, see configs/byol_cifar.py
        **_imagenet(1000.0, 1.0, 1e-5, 0.99),
        "updates": "whole_epochs",
        "batch_size": 256,
        "model": {"name": "resnet18", "stem": "cifar", **_MODEL},
        "augment": {
            "name": "byol",
            "size": 32,
            "normalize": "cifar10",
            "options": {"blur_p": (0.0, 0.0)},
        },
    },
}
