"""Settings of BEiT's dVAE (https://arxiv.org/abs/2102.12092)."""

from typing import Any

_OPTIM = {"name": "adamw", "lr_scaling": "none", "schedule": "cosine", "betas": (0.9, 0.999)}
PRESETS: dict[str, dict[str, Any]] = {
    # 3,000,000 updates of batch 512: tau in 150,000, beta in 5,000
    "imagenet": {
        "batch_size": 512,
        "epochs": 1200.0,
        "model": {"name": "dvae"},
        "augment": {"name": "crop_flip", "size": 256},
        "optim": {
            **_OPTIM,
            "lr": 1e-4,
            "end_lr": 1.25e-6,
            "weight_decay": 1e-4,
            "warmup_epochs": 0.0,
        },
    },
    "small": {  # ours, for tiles of 32 px: a token stands for 4 x 4 pixels
        "batch_size": 32,
        "model": {"name": "dvae"},
        "augment": {"name": "crop_flip", "size": 32},
        "optim": {**_OPTIM, "lr": 1e-2, "weight_decay": 1e-4, "warmup_epochs": 0.1},
        "dvae": {
            "vocabulary": 512,
            "hidden": 16,
            "initial": 64,
            "groups": 3,
            "blocks": 1,
            "likelihood": "squared_error",
            "temperature": (1.0, 0.3),  # 0.1 gives about as much: docs/ablations.md
            "temperature_share": 0.8,
            "beta": 0.01,  # of a squared error: without it 60 of the 512 codes live
            "beta_share": 0.3,
        },
    },
}
