"""Weights of CMC, https://github.com/HobbitLong/CMC: two ResNets or half AlexNets, one a view."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import models
from jssl.convert import resnets
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, LEAVES, Family, fill_run, flat_kernel, from_torch
from jssl.convert.torchvision import torchvision_name
from jssl.errors import UserError

_FIRST, _SECOND = "encoder.module.l_to_ab.", "encoder.module.ab_to_l."
_VIEWS = {"Lab": ("l", "ab"), "YCbCr": ("y", "cbcr")}  # its --view -> views of jssl
# The file has the bank and the normalisers beside the network; training goes on with new ones.
_EXAMPLES = 4096


def _config(weights: Weights) -> ConfigDict:
    tensors, options = weights.tensors, weights.other.get("opt", {})
    half = f"{_FIRST}conv_block_1.0.weight" in tensors
    config = config_lib.base("cmc", preset="alexnet" if half else "v2")
    view = options.get("view", "Lab") if isinstance(options, Mapping) else "Lab"
    if view not in _VIEWS:
        raise UserError(
            f"'{weights.path}' was trained on the views of '{view}': expected one of "
            f"{', '.join(_VIEWS)}."
        )
    config.cmc.views = _VIEWS[view]
    config.data.eval_interpolation = "bilinear"  # as in its LinearProbing.py
    if half:
        config.model.update({**models.DEFAULTS, "name": "alexnet_half"})
        config.cmc.proj_dim = tensors[f"{_FIRST}fc8.0.weight"].shape[0]
    else:
        resnets.set_model(config, tensors, _FIRST)
        config.cmc.proj_dim = tensors[f"{_FIRST}fc.weight"].shape[0]
    return fill_run(config, examples=_EXAMPLES)


def _source(leaf: str, config: ConfigDict) -> str | None:
    match = re.fullmatch(r"(params|batch_stats)\.(encoders|heads)_(\w+?)\.(.+)", leaf)
    if match is None:
        return None
    _, part, view, name = match.groups()
    prefix = _FIRST if view == config.cmc.views[0] else _SECOND
    half = config.model.name == "alexnet_half"
    if part == "heads":
        return f"{prefix}{'fc8.0' if half else 'fc'}.{LEAVES[name.rpartition('.')[2]]}"
    return prefix + (_half_name(name) if half else torchvision_name(name))


def _half_name(leaf: str) -> str:
    """The official name of a leaf of the half AlexNet.

    Example:
        >>> _half_name('conv3.kernel'), _half_name('bn7.mean')
        ('conv_block_3.0.weight', 'fc7.1.running_mean')
    """
    module, _, last = leaf.rpartition(".")
    kind, number = module[:-1], int(module[-1])
    block = f"conv_block_{number}" if number <= 5 else f"fc{number}"
    return f"{block}.{int(kind == 'bn')}.{LEAVES[last]}"


def _convert(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    if leaf.endswith(".fc6.kernel"):
        return flat_kernel(array, channels=128)
    return from_torch(leaf, array)


FAMILIES: Iterable[Family] = (
    Family(
        "cmc",
        "CMC, https://github.com/HobbitLong/CMC",
        lambda names: (
            any(name.startswith(_FIRST) for name in names)
            and any(name.startswith(_SECOND) for name in names)
        ),
        _config,
        _source,
        dropped=(COUNTER,),
        licence="BSD-2-Clause",
        assumed="views L and ab; networks of YCbCr have the same shapes",
        convert=_convert,
    ),
)
