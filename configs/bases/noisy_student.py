"""Settings of Noisy Student (https://arxiv.org/abs/1911.04252)."""

from typing import Any

from jssl.models.efficientnet import OFFICIAL

# Normalisation is left out; the biases of squeeze-and-excite and of the classifier do decay.
NO_NORM: tuple[tuple[str, str], ...] = (
    (r"bn[^/]*/(scale|bias)$", "none"),
    (r"", "decay+adapt"),
)
_OPTIM = {"name": "rmsprop_tf", "momentum": 0.9, "rms_decay": 0.9, "eps": 1e-3, "rules": NO_NORM,
          "schedule": "exponential", "step_factor": 0.97, "lr": 0.016, "lr_scaling": "linear",
          "warmup_epochs": 5.0}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "batch_size": 2048,  # labelled images
        "updates": "examples",
        "epochs": 700.0,
        "model": {"name": "efficientnet_b0", **OFFICIAL},
        "augment": {
            "name": "noisy_student",
            "size": 224,
            "normalize": "imagenet",
            "options": {
                "policy_ops": 0,
                "policy_contrast": "histogram",
                "policy_lengths": "pixels",
            },
        },  # fmt: skip
        "optim": {**_OPTIM, "decay_epochs": 4.8, "weight_decay": 1e-5},
        "noisy_student": {"unlabeled_ratio": 1, "dropout": 0.2},
    },
    "svhn": {
        "batch_size": 128,
        "epochs": 200.0,
        "model": {"name": "efficientnet_b0", "small_images": True, **OFFICIAL},
        "augment": {"name": "noisy_student_svhn", "size": 32, "normalize": "none"},
        "optim": {**_OPTIM, "weight_decay": 1e-4},
        "noisy_student": {"unlabeled_ratio": 5, "images_per_class": 53_113, "dropout": 0.2},
    },
    "small": {  # ours, for a data set of tiles
        "batch_size": 32,
        "epochs": 100.0,
        "model": {"name": "resnet8", "width": 0.5, "stem": "cifar"},
        "augment": {"name": "noisy_student", "size": 32, "normalize": "none"},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "lr_scaling": "none",
            "schedule": "cosine",
            "warmup_epochs": 5.0,
            "weight_decay": 1e-4,
        },  # fmt: skip
        "noisy_student": {"unlabeled_ratio": 3, "dropout": 0.2, "ema_decay": 0.99},
    },
}
