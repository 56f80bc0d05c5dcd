"""Weights of ResNets under torchvision's names: torchvision and timm, MoCo v1 and v2."""

import math
import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, Family, Tensors, fill_run, from_torch, split
from jssl.convert.preprocessing import set_preprocessing
from jssl.convert.torchvision import torchvision_name
from jssl.errors import UserError
from jssl.models.resnet import DEPTHS

QUERY, KEY = "module.encoder_q.", "module.encoder_k."
_FIELDS = {"params": QUERY, "batch_stats": QUERY, "target": KEY, "target_batch_stats": KEY}


def set_model(config: ConfigDict, tensors: Tensors, prefix: str = "") -> None:
    """Sets `model` to the ResNet of a file: its kind of block, their numbers, its width and stem.

    Args:
        config: in place.
        tensors: of the file, under torchvision's names after `prefix`.
        prefix: of the names.

    Raises:
        UserError: no ResNet that jssl has.
    """
    block = re.compile(re.escape(prefix) + r"layer(\d+)\.(\d+)\.conv(\d)\.weight")
    convs = [m.groups() for name in tensors if (m := block.fullmatch(name))]
    groups = sorted({int(group) for group, _, _ in convs})
    sizes = tuple(1 + max(int(n) for g, n, _ in convs if int(g) == group) for group in groups)
    bottleneck = any(conv == "3" for _, _, conv in convs)
    names = [name for name, kind in DEPTHS.items() if kind == (bottleneck, sizes)]
    stem = tensors[f"{prefix}conv1.weight"].shape
    channels = tensors[f"{prefix}layer1.0.conv1.weight"].shape[0]
    fixed = stem[0] == 64 != channels
    last = 4 * channels if bottleneck else channels
    block_shapes = (
        tensors[f"{prefix}layer1.0.conv2.weight"].shape[:2],
        tensors[f"{prefix}layer1.0.conv{3 if bottleneck else 2}.weight"].shape[0],
    )
    # Wide ResNets and ResNeXts have other numbers of channels in a block.
    if (
        stem[2] not in (3, 7)
        or stem[0] not in (channels, 64)
        or block_shapes != ((channels, channels), last)
    ):
        raise UserError(
            f"The ResNet in the file has a stem of {stem[2]} px and {stem[0]} channels before "
            f"blocks of {channels}, or wide bottlenecks or groups: expected torchvision's resnet18 "
            "to resnet152, of any width, or one with a 3x3 stem."
        )
    config.model.name = names[0] if names else "resnet50" if bottleneck else "resnet18"
    config.model.stage_sizes = () if names else sizes
    config.model.width = channels / 64
    config.model.stem_width_fixed = fixed
    config.model.stem = "imagenet" if stem[2] == 7 else "cifar"


def _moco_config(weights: Weights) -> ConfigDict:
    mlp = f"{QUERY}fc.0.weight" in weights.tensors
    config = config_lib.base("moco", preset="v2" if mlp else "v1")
    set_model(config, weights.tensors, QUERY)
    config.data.eval_interpolation = "bilinear"
    config.moco.proj_dim, config.moco.queue_size = weights.tensors["module.queue"].shape
    config.batch_size = math.gcd(config.batch_size, config.moco.queue_size)
    config.model.bn_groups = math.gcd(config.model.bn_groups, config.batch_size)
    return fill_run(config)


def _moco_source(leaf: str, config: ConfigDict) -> str | None:
    field = leaf.split(".")[0]
    if leaf in ("queue", "queue_pointer"):
        return {"queue": "module.queue", "queue_pointer": "module.queue_ptr"}[leaf]
    if field not in _FIELDS:
        return None
    top, module, torch_leaf = split(leaf)
    if top == "encoder":
        return _FIELDS[field] + torchvision_name(leaf.removeprefix(f"{field}.encoder."))
    layer = {"dense0": "fc.0", "dense1": "fc.2"}[module] if config.moco.head == "mlp" else "fc"
    return f"{_FIELDS[field]}{layer}.{torch_leaf}"


def _moco_convert(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    if leaf == "queue":
        return array.T  # there a key is a column
    if leaf == "queue_pointer":
        return array.reshape(()) if array.size == 1 else array
    return from_torch(leaf, array)


def _supervised_config(weights: Weights) -> ConfigDict:
    config = config_lib.base("supervised", preset="imagenet")
    set_model(config, weights.tensors)
    config.data.eval_interpolation = "bilinear"  # of torchvision's first weights
    set_preprocessing(config, weights, normalize="imagenet", crop=0.875)
    if "fc.weight" in weights.tensors:
        config.supervised.num_classes = weights.tensors["fc.weight"].shape[0]
    return fill_run(config)


def _supervised_source(leaf: str, config: ConfigDict) -> str | None:
    field = leaf.split(".")[0]
    if field not in ("params", "batch_stats"):
        return None
    top, _, _ = split(leaf)
    if top == "encoder":
        return torchvision_name(leaf.removeprefix(f"{field}.encoder."))
    return {"kernel": "fc.weight", "bias": "fc.bias"}[leaf.rpartition(".")[2]]


def _has(*wanted: str):
    return lambda names: all(name in names for name in wanted)


FAMILIES: Iterable[Family] = (
    Family(
        "moco",
        "MoCo v1 and v2, https://github.com/facebookresearch/moco",
        _has(f"{QUERY}conv1.weight", f"{KEY}conv1.weight", "module.queue"),
        _moco_config,
        _moco_source,
        licence="CC-BY-NC 4.0",
        convert=_moco_convert,
    ),
    Family(
        "resnet",
        "ResNets of torchvision and timm",
        _has("conv1.weight", "layer1.0.conv1.weight"),
        _supervised_config,
        _supervised_source,
        dropped=(COUNTER,),
        licence="BSD-3-Clause (torchvision)",
        architectures=r"(tv_)?resnet(18|34|50|101|152)(\..*)?",
        assumed="torchvision's network and preprocessing",
        optional=("classifier",),
    ),
)
