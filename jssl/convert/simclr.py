"""Weights of SimCLR v1 and v2, https://github.com/google-research/simclr: TensorFlow checkpoints.

TensorFlow numbers the layers of a net in the order in which they are made: `conv2d`, `conv2d_1`,
and their normalisations likewise. A block makes its shortcut first.
"""

import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert.containers import Weights
from jssl.convert.family import Family, Tensors, fill_run
from jssl.errors import UserError
from jssl.models.resnet import DEPTHS

_BASE, _HEAD = "base_model/", "head_contrastive/"
_LEAVES = {"kernel": "kernel", "bias": "beta", "scale": "gamma",
           "mean": "moving_mean", "var": "moving_variance"}  # fmt: skip
_LINEAR = "head_supervised/linear_layer/dense/"
_DROPPED = (
    (r".*/Momentum", "the optimiser's momentum"),
    (r"global_step", "the number of steps"),
    (r"ema_model/.*", "the moving average, which the paper does not evaluate"),
)


def _layers(name: str) -> list[str]:
    """jssl's names of the convolutions of a ResNet, in the order in which SimCLR makes them.

    Example:
        >>> _layers('resnet50')[:3]
        ['conv_init', 'block_group1_block0_shortcut', 'block_group1_block0_conv0']
    """
    bottleneck, sizes = DEPTHS[name]
    layers = ["conv_init"]
    for group, size in enumerate(sizes, start=1):
        for block in range(size):
            prefix = f"block_group{group}_block{block}_"
            layers += [f"{prefix}shortcut"] if block == 0 else []
            layers += [f"{prefix}conv{i}" for i in range(3 if bottleneck else 2)]
    return layers


def _set_model(config: ConfigDict, tensors: Tensors) -> None:
    """Sets `model` to the ResNet of a file.

    Raises:
        UserError: selective kernels, or a number of layers that no ResNet has.
    """
    kernels = [name for name in tensors if re.fullmatch(rf"{_BASE}conv2d(_\d+)?/kernel", name)]
    stem, second = (tensors[f"{_BASE}conv2d{n}/kernel"].shape for n in ("", "_1"))
    if stem[0] == 3 == second[0]:  # three convolutions at the entrance, as ResNet-D has
        raise UserError(
            "The net in the file has selective kernels (SK), which jssl does not have: expected "
            "one without, in SimCLRv2's names r50_1x_sk0 to r152_2x_sk0."
        )
    bottleneck = tensors[f"{_BASE}conv2d_2/kernel"].shape[0] == 1
    names = [
        name
        for name, (kind, _) in DEPTHS.items()
        if kind == bottleneck and len(_layers(name)) == len(kernels) and len(DEPTHS[name][1]) == 4
    ]
    if not names:
        raise UserError(
            f"The ResNet in the file has {len(kernels)} convolutions: expected one of "
            f"{', '.join(DEPTHS)}."
        )
    config.model.name = names[0]
    config.model.width = stem[3] / 64
    config.model.stem = "imagenet" if stem[0] == 7 else "cifar"


def _prepared(config: ConfigDict) -> ConfigDict:
    config.augment.update(size=224, normalize="none")  # pixels in [0, 1]
    config.data.eval_crop, config.data.eval_interpolation = 0.875, "bicubic"
    return fill_run(config)


def _config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    layers = {m[1] for name in tensors if (m := re.match(rf"{_HEAD}nl_(\d+)/dense/kernel", name))}
    config = config_lib.base("simclr", preset="v1" if len(layers) == 2 else "v2")
    _set_model(config, tensors)
    last = tensors[f"{_HEAD}nl_{len(layers) - 1}/dense/kernel"].shape[1]
    config.simclr.update(proj_layers=len(layers), proj_dim=last)
    return _prepared(config)


def _linear_config(weights: Weights) -> ConfigDict:
    model = config_lib.base("simclr", preset="v2").model
    config = config_lib.base("supervised", preset="imagenet")
    config.model.update(model)
    _set_model(config, weights.tensors)
    config.supervised.num_classes = weights.tensors[f"{_LINEAR}kernel"].shape[1]
    return _prepared(config)


def _source(leaf: str, config: ConfigDict) -> str | None:
    match = re.fullmatch(r"(params|batch_stats)\.(\w+)\.(?:(\w+)\.)?(\w+)", leaf)
    if match is None:
        return None
    _, top, module, last = match.groups()
    if top == "classifier":
        return f"{_LINEAR}{last}"
    if top == "projector":
        kind, number = re.fullmatch(r"(dense|bn)(\d)", module).groups()  # type: ignore[union-attr]
        layer = "dense" if kind == "dense" else "batch_normalization"
        return f"{_HEAD}nl_{number}/{layer}/{_LEAVES[last]}"
    kind = "conv2d" if last == "kernel" else "batch_normalization"
    convolution = re.sub(r"(?<=_)bn(\d)$", r"conv\1", module.removesuffix("_bn"))
    place = _layers(config.model.name).index({"bn_init": "conv_init"}.get(module, convolution))
    return f"{_BASE}{kind}{f'_{place}' if place else ''}/{_LEAVES[last]}"


def _as_stored(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    return array  # TensorFlow's layout is jssl's


_CHECKPOINT = "https://github.com/google-research/simclr"
FAMILIES: Iterable[Family] = (
    Family(
        "simclr",
        f"SimCLR v1 and v2, {_CHECKPOINT}",
        lambda names: f"{_BASE}conv2d/kernel" in names and f"{_HEAD}nl_0/dense/kernel" in names,
        _config,
        _source,
        dropped=(
            *_DROPPED,
            (f"{_LINEAR}.*", "the linear classifier; --family=simclr_linear reads it"),
        ),
        licence="Apache-2.0",
        convert=_as_stored,
    ),
    Family(
        "simclr_linear",
        f"SimCLR with its linear classifier, {_CHECKPOINT}",
        lambda names: (
            f"{_BASE}conv2d/kernel" in names
            and f"{_LINEAR}kernel" in names
            and f"{_HEAD}nl_0/dense/kernel" not in names
        ),
        _linear_config,
        _source,
        dropped=(
            *_DROPPED,
            (f"{_HEAD}.*", "the projector, which the classifier is not on"),
        ),
        licence="Apache-2.0",
        assumed="the classifier is on the encoder; files that were fine-tuned from a layer of the "
        "projector (SimCLRv2's finetuned_*) are not read rightly",
        convert=_as_stored,
    ),
)
