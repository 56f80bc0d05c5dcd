"""Settings of the papers' linear evaluations; `jssl.evaluate.probes.linear_sgd` runs them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import methods
from jssl.errors import UserError, nearest
from jssl.evaluate.probes.softmax_regression import LinearHead, sgd
from jssl.types import Array

FEWEST_STEPS = 10  # per epoch; with fewer a preset's batch is halved
# Of the rates of all steps, which is how far SGD can move a weight, in units of the gradient. With
# features of norm 4 of 16 classes of photographs, sums of 3, 14, 54 and 160 were 19, 15, 10 and 5
# points below logistic regression, and sums of 400 and more at most 2. On ImageNet it is 22,000.
SMALLEST_SUM = 100
IMAGENET_STEPS = 5005  # per epoch of ImageNet in batches of 256, the unit of 'inverse'


@dataclasses.dataclass(frozen=True)
class LinearPreset:
    """The settings of one paper's linear evaluation.

    Attributes:
        epochs: on ImageNet, or on the set in the preset's name.
        batch_size: B.
        lr: base learning rate; the initial one is lr B / 256.
        optimizer: 'sgd', or 'adamw' with the betas and epsilon of torch.
        momentum, nesterov: of SGD.
        weight_decay: of kernel and bias; decoupled for AdamW.
        schedule: 'cosine' to 0 without warm-up, 'step', or 'inverse': lr / sqrt(1 + lr wd t), with
            t the step on ImageNet at the same fraction of the epochs.
        boundaries: epochs at which 'step' multiplies by `factor`; they scale with the epochs.
        factor: see `boundaries`.
        per_epoch: whether the learning rate changes between epochs only.
        init: of the kernel: 'zeros', 'normal' (N(0, 0.01^2)), 'truncated' (normal with standard
            deviation 1/sqrt(D), cut at two of them) or 'uniform' (up to 1/sqrt(D), torch's
            default). The bias starts at 0, or for 'uniform' as the kernel.
        crop: options of the augmentation 'crop_flip'.
    """

    epochs: float
    batch_size: int
    lr: float
    optimizer: str = "sgd"
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
# Resized to 256, central square, random 224 x 224 crop: 7/8 of the side.
_WINDOW = (*_TORCH, ("scale", ((7 / 8) ** 2, (7 / 8) ** 2)), ("ratio", (1.0, 1.0)))
_STEP: dict[str, Any] = {"schedule": "step", "per_epoch": True}
_CMC: dict[str, Any] = {"boundaries": (30, 40, 50), "factor": 0.2, **_STEP}
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
    # HobbitLong/CMC LinearProbing.py and README: resnet50v1 and v2; v3; AlexNet (--feature=conv5)
    "cmc": LinearPreset(60, 256, 30.0, crop=_TORCH, **_CMC),
    "cmc_wide": LinearPreset(60, 256, 50.0, crop=_TORCH, **_CMC),
    "cmc_alexnet": LinearPreset(60, 256, 0.1, crop=(*_TORCH, ("scale", (0.2, 1.0))), **_CMC),
    # facebookresearch/deepcluster eval_linear.py with the values of eval_linear.sh, one crop in
    # the test and not ten (--feature=conv1 ... conv5)
    "deepcluster": LinearPreset(
        90, 256, 0.01, weight_decay=1e-7, schedule="inverse", init="uniform", crop=_WINDOW
    ),
    # facebookresearch/swav eval_linear.py, also of DeepCluster v2
    "swav": LinearPreset(100, 256, 0.3, weight_decay=1e-6, per_epoch=True, crop=_TORCH),
    # facebookresearch/vicreg evaluate.py by the README's command
    "vicreg": LinearPreset(100, 256, 0.02, weight_decay=1e-6, per_epoch=True, crop=_TORCH),
    # microsoft/unilm beit/run_linear_eval.py by the README's command: lr 4e-3 for 8 GPUs of 128
    # (--feature=layerN; the authors report the best layer and epoch)
    "beit": LinearPreset(
        100, 1024, 0.001, optimizer="adamw", weight_decay=1e-4, per_epoch=True, crop=_TORCH
    ),
}


def own_preset(config: Any) -> str:
    """Returns the linear preset of a run's own paper; '' if there is none.

    Args:
        config: of the run: `method`, `preset` and `model.name`.

    Example:
        >>> from ml_collections import ConfigDict
        >>> model = {'name': 'vit_small'}
        >>> own_preset(ConfigDict({'method': 'moco_v3', 'preset': 'v3_vit', 'model': model}))
        'moco_v3_vit'
        >>> own_preset(ConfigDict({'method': 'deepcluster_v2', 'preset': 'v2', 'model': model}))
        'swav'
    """
    spec = methods.get(config.method)
    for word in (config.preset, config.model.name.split("_")[0]):
        if word in spec.linear_variants:
            return spec.linear_variants[word]
    return spec.linear_preset


def find_preset(name: str) -> LinearPreset:
    """Returns the preset of a name; raises UserError with the nearest one if unknown."""
    if name not in PRESETS:
        raise UserError(
            f"Unknown linear preset '{name}': {nearest(name, PRESETS)}. Type --preset=NAME."
        )
    return PRESETS[name]


def preset_rate(preset: LinearPreset, epoch: float, *, epochs: float, batch_size: int) -> float:
    """Computes the learning rate at an epoch, 0 <= epoch < epochs, which may be a fraction.

    Example:
        >>> [preset_rate(PRESETS['moco'], e, epochs=100, batch_size=256) for e in (59.9, 60)]
        [30.0, 3.0]
        >>> preset_rate(PRESETS['simclr'], 0, epochs=90, batch_size=4096)
        1.6
        >>> round(preset_rate(PRESETS['byol'], 40, epochs=80, batch_size=1024), 6)
        0.4
        >>> preset_rate(PRESETS['beit'], 0, epochs=100, batch_size=1024)
        0.004
    """
    peak = preset.lr * batch_size / 256
    if preset.per_epoch:
        epoch = math.floor(epoch + 1e-6)
    if preset.schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    scale = epochs / preset.epochs
    if preset.schedule == "inverse":
        return peak / math.sqrt(1.0 + peak * preset.weight_decay * IMAGENET_STEPS * epoch / scale)
    return peak * preset.factor ** sum(epoch >= edge * scale for edge in preset.boundaries)


def fitting_batch(preset: LinearPreset, examples: int) -> int:
    """Returns the preset's batch size, halved until an epoch has ten steps.

    Example:
        >>> fitting_batch(PRESETS['simclr'], 1281167), fitting_batch(PRESETS['simclr'], 3200)
        (4096, 256)
    """
    size = preset.batch_size
    while size > 1 and examples // size < FEWEST_STEPS:
        size //= 2
    return size


def rate_warning(preset: LinearPreset, *, epochs: float, examples: int) -> str:
    """Warns of an SGD preset whose rates are too small for so few examples.

    Args:
        preset: with its batch size fitted to the examples, see `fitting_batch`.
        epochs: of the probe.
        examples: in the train split.

    Returns:
        One line; '' if there is nothing to warn of.

    Example:
        >>> print(rate_warning(PRESETS['simclr'], epochs=90, examples=200))
        the learning rate is 0.00625 for batches of 16 (linear scaling of 0.1), and sums to 3.41 \
over 1,080 steps: expected 100 or more. SGD ends long before its optimum, and the number is low. \
Type --protocol=logistic, or more --epochs=N.
        >>> rate_warning(PRESETS['simclr'], epochs=90, examples=50_000)
        ''
    """
    size = fitting_batch(preset, examples)
    steps = max(1, round(epochs * (examples // size)))
    places = range(0, steps, max(1, steps // 100))  # the mean of a hundred steps will do
    per_epoch = steps / epochs
    rates = [
        preset_rate(preset, step / per_epoch, epochs=epochs, batch_size=size) for step in places
    ]
    total = steps * sum(rates) / len(rates)
    if preset.optimizer != "sgd" or total >= SMALLEST_SUM:
        return ""
    return (
        f"the learning rate is {rates[0]:.3g} for batches of {size} (linear scaling of "
        f"{preset.lr:g}), and sums to {total:.3g} over {steps:,} steps: expected {SMALLEST_SUM} or "
        "more. SGD ends long before its optimum, and the number is low. Type --protocol=logistic, "
        "or more --epochs=N."
    )


def direction(preset: LinearPreset) -> optax.GradientTransformation:
    """Returns the update direction of SGD or AdamW, without the learning rate."""
    if preset.optimizer == "adamw":
        return optax.chain(
            optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
            optax.add_decayed_weights(preset.weight_decay),
        )
    return sgd(momentum=preset.momentum, nesterov=preset.nesterov, weight_decay=preset.weight_decay)


def crop_ranges(preset: LinearPreset) -> dict[str, tuple[float, float]]:
    """Returns `area` and `ratio` of the crops for `jssl.data.HostCrop`, if the preset has its own.

    Example:
        >>> crop_ranges(PRESETS['cmc_alexnet']), crop_ranges(PRESETS['simclr'])
        ({'area': (0.2, 1.0)}, {})
    """
    crop = dict(preset.crop)
    return {new: crop[k] for k, new in (("scale", "area"), ("ratio", "ratio")) if k in crop}


def first_head(preset: LinearPreset, key: Array, D: int, K: int) -> LinearHead:
    """Returns the initial head of the preset: kernel [D,K] and bias [K]."""
    key = jax.random.fold_in(key, 2**31 - 1)  # not the key of a step
    if preset.init == "uniform":
        uniform = jax.random.uniform(key, (D + 1, K), minval=-1.0, maxval=1.0) / D**0.5
        return LinearHead(uniform[:D], uniform[D])
    kernel = {
        "zeros": lambda: jnp.zeros((D, K)),
        "normal": lambda: 0.01 * jax.random.normal(key, (D, K)),
        "truncated": lambda: jax.random.truncated_normal(key, -2.0, 2.0, (D, K)) / D**0.5,
    }[preset.init]()
    return LinearHead(kernel, jnp.zeros((K,)))


def describe(preset: LinearPreset, record: dict[str, Any], train: Any, test: Any, size: int) -> str:
    """Returns the protocol text: one line with everything that the result depends on."""
    edges = ", ".join(f"{b * record['epochs'] / preset.epochs:g}" for b in preset.boundaries)
    schedule = {
        "cosine": "cosine",
        "step": f"x{preset.factor:g} at epochs {edges}",
        "inverse": "/ sqrt(1 + lr wd t)",
    }[preset.schedule]
    rule = "Nesterov" if preset.nesterov else "momentum"
    rule = "AdamW" if preset.optimizer == "adamw" else f"SGD {rule} {preset.momentum:g}"
    return (
        f"linear, preset {record['preset']}: frozen {record['feature']} ({record['dim']}-d) in "
        f"evaluation mode, train images cropped and flipped at random at {size} px, {rule}, lr "
        f"{record['learning_rate']:g} {schedule}{' per epoch' if preset.per_epoch else ''}, weight "
        f"decay {preset.weight_decay:g}, {preset.init} init, {record['epochs']:g} epochs of batch "
        f"{record['batch_size']}, {len(train):,} train and {record['count']:,} test examples of "
        f"{test.name}, last epoch"
    )
