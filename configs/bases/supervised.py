"""Settings of supervised training and fine-tuning."""

from typing import Any

from jssl.methods._mixed import CROP, RAND_AUGMENT
from jssl.models.vit import OFFICIAL
from jssl.optim import TRANSFORMER

_OPTIM = {"name": "sgd", "momentum": 0.9, "nesterov": True, "schedule": "cosine",
          "lr": 0.1, "lr_scaling": "linear", "warmup_epochs": 5.0}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "batch_size": 1024,
        "epochs": 90.0,
        "model": {"name": "resnet50", "stem": "imagenet", "zero_init_last_gamma": True},
        "augment": {"name": "crop_flip", "size": 224, "normalize": "imagenet"},
        "optim": {**_OPTIM, "weight_decay": 1e-4},
        "supervised": {"label_smoothing": 0.1},
    },
    "cifar": {
        "batch_size": 128,
        "epochs": 200.0,
        "model": {"name": "resnet18", "stem": "cifar"},
        "augment": {"name": "crop_flip", "size": 32, "normalize": "cifar10"},
        "optim": {**_OPTIM, "weight_decay": 5e-4},
    },
    "beit": {  # fine-tuning of BEiT-B, but for what `beit_imagenet` adds
        "batch_size": 1024,
        "epochs": 100.0,
        "model": {"name": "vit_base", **OFFICIAL["beit_finetune"]},
        "augment": {"name": "crop_flip", "size": 224, "normalize": "half"},
        "optim": {
            "name": "adamw",
            "lr": 4e-3,
            "lr_scaling": "none",
            "schedule": "cosine",
            "warmup_epochs": 20.0,
            "weight_decay": 0.05,
            "rules": TRANSFORMER,
        },
        "supervised": {"label_smoothing": 0.1, "layer_decay": 0.65},
    },
}
# The official code's fine-tuning of a network that has seen no labels yet: DeiT's augmentation.
PRESETS["beit_imagenet"] = {
    **PRESETS["beit"],
    "augment": {**PRESETS["beit"]["augment"], "options": {**CROP, **RAND_AUGMENT}},
    "optim": {**PRESETS["beit"]["optim"], "end_lr": 1e-6},
    "supervised": {
        **PRESETS["beit"]["supervised"],
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "erasing_p": 0.25,
    },
}
