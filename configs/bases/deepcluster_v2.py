"""Settings of DeepCluster v2 (https://arxiv.org/abs/2006.09882)."""

from typing import Any

from jssl import optim

_OPTIM = {"name": "lars", "order": "lr_outside", "momentum": 0.9, "weight_decay": 1e-6,
          "lr_scaling": "linear", "schedule": "cosine", "warmup_epochs": 10.0}  # fmt: skip
_COLOR = {"scale": (0.08, 1.0), "jitter": (0.8, 0.8, 0.8, 0.2)}
PRESETS: dict[str, dict[str, Any]] = {
    "v2": {  # 2x160 + 4x96, 400 epochs
        "batch_size": 4096,
        "epochs": 400.0,
        "model": {"name": "resnet50", "stem": "imagenet", "bn_unbiased_running_var": True},
        "augment": {"name": "moco_v2", "size": 160, "normalize": "imagenet", "options": _COLOR},
        "optim": {**_OPTIM, "lr": 0.3, "rules": optim.EVERYTHING},
    },
    "cifar": {  # solo-learn's
        "batch_size": 256,
        "epochs": 1000.0,
        "model": {"name": "resnet18", "stem": "cifar", "bn_unbiased_running_var": True},
        "augment": {"name": "moco_cifar", "size": 32, "normalize": "cifar10", "options": _COLOR},
        "optim": {**_OPTIM, "lr": 0.6, "trust_coefficient": 0.02},
        "deepcluster_v2": {"small_crops": 0},
    },
}
