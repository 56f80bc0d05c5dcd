"""Settings of Fast R-CNN on PASCAL VOC 2007, as py-faster-rcnn's, and a small one on cut-outs."""

from typing import Any

_RULES = ((r"(^|/)bias$", "none"), (r"", "decay+adapt"))
_OPTIM = {"name": "sgd", "momentum": 0.9, "lr_scaling": "none", "schedule": "step",
          "weight_decay": 5e-4, "warmup_epochs": 0.0, "rules": _RULES}  # fmt: skip
_NET = {"name": "alexnet", "sobel": True, "dropout": 0.5}
UPDATES, IMAGES = 40_000, 5_011  # of py-faster-rcnn; pictures of trainval 2007
_EPOCH = 2 / IMAGES  # of an update
EPOCHS = (UPDATES + 0.5) * _EPOCH
PRESETS: dict[str, dict[str, Any]] = {
    "voc": {
        "batch_size": 2,
        "epochs": EPOCHS,
        "updates": "examples",
        "model": _NET,
        "data": {"train_split": "2007/trainval", "test_split": "2007/test"},
        "augment": {"size": 1000, "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": 0.001, "boundaries": (30_000 * _EPOCH,)},
        "monitor": {"every_epochs": 0.0},
    },
    "cutouts": {
        "batch_size": 4,
        "epochs": 20.0,
        "model": {**_NET, "width": 0.125},
        "augment": {"size": 256, "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": 0.01, "boundaries": (15.0,)},
        "monitor": {"every_epochs": 0.0},
        "fast_rcnn": {
            "proposals": "anchors",
            "anchor_sizes": (64.0, 128.0, 192.0),
            "sides": (256,),  # twice their own: a cell of the map is 16 pixels
            "test_side": 256,
        },
    },
}
