"""Settings of MoCo v3 (https://arxiv.org/abs/2104.02057)."""

from typing import Any

from jssl.models.vit import OFFICIAL

_OPTIM = {"name": "lars", "order": "lr_outside", "momentum": 0.9, "schedule": "cosine",
          "lr_scaling": "linear", "warmup_epochs": 10.0}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "v3": {  # the ResNet-50 of CONFIG.md, 100 epochs; 300 and 1000 epochs: configs/moco_imagenet.py
        "batch_size": 4096,
        "epochs": 100.0,
        "model": {
            "name": "resnet50",
            "stem": "imagenet",
            "zero_init_last_gamma": True,
            "bn_unbiased_running_var": True,
        },
        "augment": {"name": "moco_v3", "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": 0.6, "weight_decay": 1e-6},
    },
    "v3_vit": {  # the ViT-S of CONFIG.md, 300 epochs; others: configs/moco_imagenet.py
        "batch_size": 4096,
        "epochs": 300.0,
        "model": {"name": "vit_small", **OFFICIAL["moco_v3"]},
        "augment": {
            "name": "moco_v3",
            "normalize": "imagenet",
            "options": {"scale": (0.08, 1.0)},
        },
        "moco_v3": {"temperature": 0.2, "proj_layers": 3, "pred_last_bn": "plain"},
        "optim": {
            "name": "adamw",
            "lr": 1.5e-4,
            "lr_scaling": "linear",
            "schedule": "cosine",
            "warmup_epochs": 40.0,
            "weight_decay": 0.1,
            "rules": ((r"(^|/)patch_embed/", "none"), (r"", "decay+adapt")),
        },
    },
}
