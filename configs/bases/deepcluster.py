"""Settings of DeepCluster (https://arxiv.org/abs/1807.05520)."""

from typing import Any

from jssl import optim

_CROP = {"sampler": "torchvision", "resize": "bilinear", "antialias": True}
PRESETS: dict[str, dict[str, Any]] = {
    "v1": {
        "batch_size": 256,
        "epochs": 500.0,  # the paper's AlexNet; the code's default is 200
        "model": {"name": "alexnet", "sobel": True, "dropout": 0.5},
        "augment": {"name": "crop_flip", "normalize": "imagenet", "options": _CROP},
        "optim": {"name": "sgd", "momentum": 0.9, "lr": 0.05, "lr_scaling": "none",
                  "schedule": "constant", "warmup_epochs": 0.0, "weight_decay": 1e-5,
                  "rules": optim.EVERYTHING},
    },
}  # fmt: skip
