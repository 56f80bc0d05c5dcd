"""Settings of VICReg (https://arxiv.org/abs/2105.04906)."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {  # the paper: ResNet-50, batch 2048, linear scaling 0.2 B/256, 1000 epochs
        "batch_size": 2048,
        "epochs": 1000.0,
        "model": {
            "name": "resnet50",
            "stem": "imagenet",
            "zero_init_last_gamma": True,
            "bn_unbiased_running_var": True,
        },
        "augment": {  # BYOL's pair of views by PIL and torchvision
            "name": "moco_v3",
            "size": 224,
            "normalize": "imagenet",
            "options": {"scale": (0.08, 1.0), "resize": "bicubic", "clip_crop": True},
        },
        "optim": {
            "name": "lars",
            "order": "lr_outside",
            "momentum": 0.9,
            "lr": 0.2,
            "lr_scaling": "linear",
            "weight_decay": 1e-6,
            "schedule": "cosine",
            "warmup_epochs": 10.0,
            "end_lr": 1.6e-3,  # a thousandth of the peak
        },
    },
}
