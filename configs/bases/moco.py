"""Settings of MoCo v1 (https://arxiv.org/abs/1911.05722) and v2 (https://arxiv.org/abs/2003.04297)."""

from typing import Any

from jssl import optim

_MODEL = {"bn_groups": 8, "bn_unbiased_running_var": True}  # else torchvision's ResNet
_OPTIM = {"name": "sgd", "momentum": 0.9, "lr": 0.03, "lr_scaling": "linear",
          "warmup_epochs": 0.0, "weight_decay": 1e-4, "rules": optim.EVERYTHING}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "v1": {
        "batch_size": 256,
        "epochs": 200.0,
        "model": {"name": "resnet50", "stem": "imagenet", **_MODEL},
        "augment": {"name": "moco_v1", "normalize": "imagenet"},
        "optim": {**_OPTIM, "schedule": "step", "boundaries": (120, 160), "step_factor": 0.1},
        "moco": {"temperature": 0.07, "head": "linear"},
    },
    "v2": {
        "batch_size": 256,
        "epochs": 200.0,
        "model": {"name": "resnet50", "stem": "imagenet", **_MODEL},
        "augment": {"name": "moco_v2", "normalize": "imagenet"},
        "optim": {**_OPTIM, "schedule": "cosine"},
        "moco": {"temperature": 0.2, "head": "mlp"},
    },
    "cifar": {  # the official notebook, moco_cifar10_demo.ipynb, asymmetric
        "batch_size": 512,
        "epochs": 200.0,
        "model": {"name": "resnet18", "stem": "cifar", **_MODEL},
        "augment": {"name": "moco_cifar", "size": 32, "normalize": "cifar10"},
        "optim": {**_OPTIM, "lr": 0.06, "lr_scaling": "none", "schedule": "cosine",
                  "weight_decay": 5e-4},
        "moco": {"temperature": 0.1, "queue_size": 4096, "ema_momentum": 0.99, "head": "linear"},
    },
}  # fmt: skip
