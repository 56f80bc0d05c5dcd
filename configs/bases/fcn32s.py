"""Settings of FCN-32s on PASCAL VOC, as the official ones, and a small one on cut-outs."""

from typing import Any

_RULES = ((r"^score/bias$", "none"), (r"", "decay+adapt"))
_OPTIM = {"name": "sgd", "momentum": 0.9, "lr_scaling": "none", "weight_decay": 5e-4,
          "warmup_epochs": 0.0, "rules": _RULES}  # fmt: skip
_NET = {"name": "alexnet", "sobel": True, "dropout": 0.5}
UPDATES, IMAGES = 100_000, 8_498  # of the official code; pictures of SBD's train
EPOCHS = (UPDATES + 0.5) * 20 / IMAGES
PRESETS: dict[str, dict[str, Any]] = {
    "voc": {
        "batch_size": 20,
        "epochs": EPOCHS,
        "updates": "examples",
        "model": _NET,
        "data": {"train_split": "2012/sbd_train", "test_split": "2012/seg11valid"},
        "augment": {"size": 500, "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": 1e-4, "schedule": "constant"},
        "monitor": {"every_epochs": 0.0},
    },
    "cutouts": {
        "batch_size": 4,
        "epochs": 20.0,
        "model": {**_NET, "width": 0.25},
        "data": {"image_size": 192},  # a cell of the map is 32 pixels
        "augment": {"size": 192, "normalize": "imagenet"},
        "optim": {**_OPTIM, "lr": 0.05, "schedule": "step", "boundaries": (15.0,)},
        "monitor": {"every_epochs": 0.0},
    },
}
