"""Settings of segmentation: MoCo's and BYOL's dilated ResNet-50 on VOC, a small one on cut-outs."""

from typing import Any

UPDATES, IMAGES = 30_000, 10_582  # of MoCo; pictures of train_aug
_EPOCH = 16 / IMAGES  # of an update
EPOCHS = (UPDATES + 0.5) * _EPOCH
_OPTIM = {"name": "sgd", "momentum": 0.9, "lr_scaling": "none", "schedule": "step",
          "weight_decay": 1e-4, "rules": ((r"", "decay+adapt"),)}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "voc": {
        "batch_size": 16,
        "epochs": EPOCHS,
        "updates": "examples",
        "model": {"name": "resnet50", "stem": "imagenet"},
        "augment": {"size": 513, "normalize": "imagenet"},
        "optim": {
            **_OPTIM,
            "lr": 0.003,
            "warmup_epochs": 0.0,
            "boundaries": (21_000 * _EPOCH, 27_000 * _EPOCH),
        },
        "monitor": {"every_epochs": 0.0},
    },
    "cutouts": {
        "batch_size": 8,
        "epochs": 20.0,
        "model": {"name": "resnet8", "stem": "imagenet", "width": 0.5},
        "augment": {"size": 128, "normalize": "none"},
        "optim": {**_OPTIM, "lr": 0.05, "warmup_epochs": 0.5, "boundaries": (14.0, 18.0)},
        "monitor": {"every_epochs": 0.0},
        "fcn": {"features": 64, "dilation": 2},
    },
}
