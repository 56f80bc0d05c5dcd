"""Settings of BEiT (https://arxiv.org/abs/2106.08254)."""

from typing import Any

from jssl.models.vit import OFFICIAL
from jssl.optim import TRANSFORMER

_OPTIM = {"name": "adamw", "lr_scaling": "none", "schedule": "cosine", "betas": (0.9, 0.999),
          "weight_decay": 0.05, "clip_norm": 3.0, "rules": TRANSFORMER}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "batch_size": 2048,
        "epochs": 800.0,
        "model": {"name": "vit_base", **OFFICIAL["beit"]},
        "augment": {"name": "beit", "size": 224, "normalize": "half"},
        "optim": {**_OPTIM, "lr": 1.5e-3, "end_lr": 1e-5, "warmup_epochs": 10.0},
    },
    "small": {  # ours, for tiles of 32 px and a tokenizer of 4 px
        "batch_size": 32,
        "model": {
            "name": "vit_tiny",
            **OFFICIAL["beit"],
            "patch_size": 4,
            "depth": 4,
            "width": 0.5,
            "stochastic_depth": 0.0,
        },
        "augment": {"name": "beit", "size": 32, "normalize": "half"},
        "optim": {**_OPTIM, "lr": 1.5e-3, "warmup_epochs": 1.0},
        "beit": {"masked": 24, "min_block": 5},
    },
}
