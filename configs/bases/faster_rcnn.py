"""Settings of Faster R-CNN: MoCo's R50-C4 on PASCAL VOC, and a small one on cut-outs."""

from typing import Any

# No weight decay for batch normalisation; biases decay.
_RULES = ((r"(norm|bn)[^/]*/(scale|bias)$", "none"), (r"(^|/)(kernel|bias)$", "decay+adapt"))
_OPTIM = {"name": "sgd", "momentum": 0.9, "lr_scaling": "none", "schedule": "step",
          "weight_decay": 1e-4, "rules": _RULES}  # fmt: skip
UPDATES, IMAGES = 24_000, 16_551  # of MoCo; pictures of trainval 2007 and 2012
_EPOCH = 16 / IMAGES  # of an update
EPOCHS = (UPDATES + 0.5) * _EPOCH
PRESETS: dict[str, dict[str, Any]] = {
    "c4": {
        "batch_size": 16,
        "epochs": EPOCHS,
        "updates": "examples",
        "model": {"name": "resnet50", "stem": "imagenet"},
        "augment": {"size": 1333, "normalize": "imagenet"},
        "optim": {
            **_OPTIM,
            "lr": 0.02,
            "start_lr": 0.02 * 0.001,
            "warmup_epochs": 100.5 * _EPOCH,
            "boundaries": (18_000 * _EPOCH, 22_000 * _EPOCH),
        },
        "monitor": {"every_epochs": 0.0},
        "faster_rcnn": {"remat": True},
    },
    "cutouts": {
        "batch_size": 8,
        "epochs": 20.0,
        "model": {"name": "resnet8", "stem": "imagenet", "width": 0.5},
        "augment": {"size": 128, "normalize": "none"},
        "optim": {**_OPTIM, "lr": 0.02, "warmup_epochs": 0.5, "boundaries": (15.0, 18.0)},
        "monitor": {"every_epochs": 0.0},
        "faster_rcnn": {
            "sides": (128,),
            "test_side": 128,
            "anchor_sizes": (32.0, 64.0, 96.0),
            "before": 256,
            "after": 64,
            "anchors": 64,
            "regions": 32,
            "test_before": 256,
            "test_after": 64,
            "precise_batches": 20,
        },
    },
}
