"""The linear evaluations of the papers, as numbers; `jssl.evaluate.frozen` runs them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.evaluate.linear import LinearHead
from jssl.types import Array

FEWEST_STEPS = 10  # of an epoch, before a preset's batch is halved for a small data set


@dataclasses.dataclass(frozen=True)
class LinearPreset:
    """The settings of one paper's linear evaluation.

    Attributes:
        epochs: on ImageNet, or on the set that the preset is named after.
        batch_size: B.
        lr: base learning rate; the first one is lr B / 256.
        momentum, nesterov, weight_decay: of SGD; the decay is of kernel and bias.
        schedule: 'cosine' to 0 without warm-up, or 'step'.
        boundaries: epochs at which 'step' multiplies by `factor`; they scale with the epochs.
        factor: see `boundaries`.
        per_epoch: the learning rate changes between epochs only.
        init: of the kernel: 'zeros', 'normal' (N(0, 0.01^2)) or 'truncated' (normal of deviation
            1/sqrt(D), cut at two of them). The bias starts at 0.
        crop: options of the augmentation 'crop_flip'.
    """

    epochs: float
    batch_size: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "cosine"
    boundaries: tuple[float, ...] = ()
    factor: float = 0.1
    per_epoch: bool = False
    init: str = "normal"
    crop: tuple[tuple[str, Any], ...] = ()


_TF = (("sampler", "tf"), ("resize", "bicubic"))
_BYOL = (("sampler", "byol"), ("resize", "bicubic"))
_TORCH = (("sampler", "torchvision"), ("resize", "bilinear"), ("antialias", True))
_STEP = {"schedule": "step", "per_epoch": True}
PRESETS: dict[str, LinearPreset] = {
    # SimCLR, appendix B.6 (weight decay 0); the README's CIFAR-10 command
    "simclr": LinearPreset(90, 4096, 0.1, nesterov=True, init="zeros", crop=_TF),
    "simclr_cifar": LinearPreset(100, 512, 0.1, nesterov=True, init="zeros", crop=_TF),
    # facebookresearch/moco main_lincls.py
    "moco": LinearPreset(100, 256, 30.0, boundaries=(60, 80), crop=_TORCH, **_STEP),
    # facebookresearch/moco-v3 main_lincls.py: ResNet-50; ViT
    "moco_v3": LinearPreset(90, 1024, 0.1, per_epoch=True, crop=_TORCH),
    "moco_v3_vit": LinearPreset(90, 1024, 3.0, per_epoch=True, crop=_TORCH),
    # deepmind-research byol/configs/eval.py: one learning rate, no sweep
    "byol": LinearPreset(80, 1024, 0.2, nesterov=True, init="truncated", crop=_BYOL),
    # HobbitLong/CMC LinearProbing.py
    "cmc": LinearPreset(60, 256, 30.0, boundaries=(30, 40, 50), factor=0.2, crop=_TORCH, **_STEP),
    # facebookresearch/swav eval_linear.py, also of DeepCluster v2
    "swav": LinearPreset(100, 256, 0.3, weight_decay=1e-6, per_epoch=True, crop=_TORCH),
}


def find_preset(name: str) -> LinearPreset:
    """The preset of a name; UserError with the nearest one otherwise."""
    if name not in PRESETS:
        raise UserError(
            f"Unknown linear preset '{name}': {nearest(name, PRESETS)}. Type --preset=NAME."
        )
    return PRESETS[name]


def preset_rate(preset: LinearPreset, epoch: float, *, epochs: float, batch_size: int) -> float:
    """The learning rate at an epoch, 0 <= epoch < epochs, which may be a fraction.

    Example:
        >>> [preset_rate(PRESETS['moco'], e, epochs=100, batch_size=256) for e in (59.9, 60)]
        [30.0, 3.0]
        >>> preset_rate(PRESETS['simclr'], 0, epochs=90, batch_size=4096)
        1.6
        >>> round(preset_rate(PRESETS['byol'], 40, epochs=80, batch_size=1024), 6)
        0.4
    """
    peak = preset.lr * batch_size / 256
    if preset.per_epoch:
        epoch = math.floor(epoch + 1e-6)
    if preset.schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    scale = epochs / preset.epochs
    return peak * preset.factor ** sum(epoch >= edge * scale for edge in preset.boundaries)


def fitting_batch(preset: LinearPreset, examples: int) -> int:
    """The preset's batch size, halved until an epoch has ten steps.

    Example:
        >>> fitting_batch(PRESETS['simclr'], 1281167), fitting_batch(PRESETS['simclr'], 3200)
        (4096, 256)
    """
    size = preset.batch_size
    while size > 1 and examples // size < FEWEST_STEPS:
        size //= 2
    return size


def first_head(preset: LinearPreset, key: Array, D: int, K: int) -> LinearHead:
    """The head before training: kernel [D,K] as the preset says, bias 0."""
    key = jax.random.fold_in(key, 2**31 - 1)  # no step's key
    kernel = {
        "zeros": lambda: jnp.zeros((D, K)),
        "normal": lambda: 0.01 * jax.random.normal(key, (D, K)),
        "truncated": lambda: jax.random.truncated_normal(key, -2.0, 2.0, (D, K)) / D**0.5,
    }[preset.init]()
    return LinearHead(kernel, jnp.zeros((K,)))


def describe(preset: LinearPreset, record: dict[str, Any], train: Any, test: Any, size: int) -> str:
    """One line with everything that a number depends on."""
    course = (
        "cosine"
        if preset.schedule == "cosine"
        else f"x{preset.factor:g} at epochs "
        + (", ".join(f"{b * record['epochs'] / preset.epochs:g}" for b in preset.boundaries))
    )
    return (
        f"linear, preset {record['preset']}: frozen {record['feature']} ({record['dim']}-d) in "
        f"evaluation mode, train images cropped and flipped at random at {size} px, SGD "
        f"{'Nesterov' if preset.nesterov else 'momentum'} {preset.momentum:g}, lr "
        f"{record['learning_rate']:g} {course}{' per epoch' if preset.per_epoch else ''}, weight "
        f"decay {preset.weight_decay:g}, {preset.init} init, {record['epochs']:g} epochs of batch "
        f"{record['batch_size']}, {len(train):,} train and {record['count']:,} test examples of "
        f"{test.name}, last epoch"
    )
