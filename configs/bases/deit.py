"""Settings of DeiT (https://arxiv.org/abs/2012.12877)."""

from typing import Any

from jssl.methods._mixed import CROP, IMAGENET_FILL, RAND_AUGMENT
from jssl.optim import TRANSFORMER

_OPTIM = {"name": "adamw", "lr": 2.5e-4, "lr_scaling": "linear", "schedule": "cosine",
          "warmup_epochs": 5.0, "weight_decay": 0.05, "rules": TRANSFORMER}  # fmt: skip
# By epochs and one behind, from 1e-6 and to 1e-5, whatever the batch: see `jssl.optim`.
OFFICIAL_SCHEDULE = {"schedule": "cosine_epochs", "start_lr": 1e-6, "end_lr": 1e-5}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "batch_size": 1024,
        "epochs": 300.0,
        "model": {"name": "vit_small", "stochastic_depth": 0.1},
        "augment": {
            "name": "crop_flip",
            "size": 224,
            "normalize": "imagenet",
            "options": {**CROP, **RAND_AUGMENT, "policy_fill": IMAGENET_FILL},
        },
        "optim": {**_OPTIM, **OFFICIAL_SCHEDULE},  # 5e-4 B / 512
    },
    "small": {  # ours, for a data set of tiles
        "batch_size": 64,
        "epochs": 30.0,
        "model": {"name": "vit_tiny", "width": 0.5, "depth": 4, "patch_size": 4},
        "augment": {"name": "crop_flip", "size": 32, "normalize": "none", "options": CROP},
        "optim": {**_OPTIM, "lr": 1e-3, "lr_scaling": "none", "warmup_epochs": 2.0},
        "deit": {"repeated_augmentation": 1},
    },
}
