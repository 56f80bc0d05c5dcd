"""Weights of EfficientNets: timm's names, and those of lukemelas' EfficientNet-PyTorch."""

import re
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import models
from jssl.convert.containers import Weights
from jssl.convert.family import Family, Tensors, arguments, fill_run, split
from jssl.convert.preprocessing import set_preprocessing
from jssl.errors import UserError
from jssl.models.efficientnet import OFFICIAL, SIZES, make_efficientnet

# A module of a block -> lukemelas' name of it, timm's with an expansion, timm's without.
_BLOCK = {
    "expand": ("_expand_conv", "conv_pw", ""),
    "expand_bn": ("_bn0", "bn1", ""),
    "depthwise": ("_depthwise_conv", "conv_dw", "conv_dw"),
    "depthwise_bn": ("_bn1", "bn2", "bn1"),
    "se_reduce": ("_se_reduce", "se.conv_reduce", "se.conv_reduce"),
    "se_expand": ("_se_expand", "se.conv_expand", "se.conv_expand"),
    "project": ("_project_conv", "conv_pwl", "conv_pw"),
    "project_bn": ("_bn2", "bn3", "bn2"),
}
_TOP = {
    "stem_conv": ("_conv_stem", "conv_stem"),
    "stem_bn": ("_bn0", "bn1"),
    "head_conv": ("_conv_head", "conv_head"),
    "head_bn": ("_bn1", "bn2"),
}


# Share of the short side that timm and the official code evaluate; .875 of the others.
_CROPS = {f"efficientnet_b{i}": crop for i, crop in
          enumerate((0.875, 0.882, 0.890, 0.904, 0.922, 0.934, 0.942, 0.949))}  # fmt: skip


def _set_model(config: ConfigDict, stem: int, depth: int, last: int, head: int, lite: bool) -> None:
    """Sets `model` to the EfficientNet with these channels and this number of blocks.

    Raises:
        UserError: no EfficientNet of jssl has them.
    """
    for name in SIZES:
        net: Any = make_efficientnet(name)
        if (net.lite, *net.dimensions()) == (lite, stem, depth, last, head):
            break
    else:
        raise UserError(
            f"The EfficientNet in the file has {depth} blocks, a stem of {stem} channels, a "
            f"last block of {last} and a head of {head}: expected one of {', '.join(SIZES)}."
        )
    config.model.update({**models.DEFAULTS, **OFFICIAL, "name": name})
    config.augment.size = SIZES[name].resolution


def _make_config(weights: Weights, names: int, blocks: int) -> ConfigDict:
    tensors: Tensors = weights.tensors
    stem = tensors[f"{_TOP['stem_conv'][names]}.weight"].shape[0]
    head, last = tensors[f"{_TOP['head_conv'][names]}.weight"].shape[:2]
    lite = not any(re.search(r"\._?se[_.]", name) for name in tensors)
    config = config_lib.base("supervised", preset="imagenet")
    _set_model(config, stem, blocks, last, head, lite)
    crop = _CROPS.get(config.model.name, 0.875)
    set_preprocessing(config, weights, normalize="half" if lite else "imagenet", crop=crop)
    classifier = "_fc" if names == 0 else "classifier"
    if f"{classifier}.weight" in tensors:
        config.supervised.num_classes = tensors[f"{classifier}.weight"].shape[0]
    config.model.bn_epsilon = arguments(weights).get("bn_eps", config.model.bn_epsilon)
    return fill_run(config)


def _lukemelas_config(weights: Weights) -> ConfigDict:
    blocks = {m[1] for name in weights.tensors if (m := re.match(r"_blocks\.(\d+)\.", name))}
    return _make_config(weights, 0, len(blocks))


def _timm_config(weights: Weights) -> ConfigDict:
    blocks = {m[1] for name in weights.tensors if (m := re.match(r"blocks\.(\d+\.\d+)\.", name))}
    return _make_config(weights, 1, len(blocks))


def _lukemelas_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    if top == "classifier":
        return f"_fc.{torch_leaf}"
    block = re.fullmatch(r"block(\d+)_(\w+)", module)
    name = f"_blocks.{block[1]}.{_BLOCK[block[2]][0]}" if block else _TOP[module][0]
    return f"{name}.{torch_leaf}"


def _timm_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    if top == "classifier":
        return f"classifier.{torch_leaf}"
    block = re.fullmatch(r"block(\d+)_(\w+)", module)
    if block is None:
        return f"{_TOP[module][1]}.{torch_leaf}"
    stage, place, expands = make_efficientnet(config.model.name).place(int(block[1]))
    kind = _BLOCK[block[2]][1 if expands else 2]
    return f"blocks.{stage}.{place}.{kind}.{torch_leaf}"


FAMILIES: Iterable[Family] = (
    Family(
        "efficientnet_pytorch",
        "EfficientNets of https://github.com/lukemelas/EfficientNet-PyTorch, the Lite nets too",
        lambda names: "_conv_stem.weight" in names and "_fc.weight" in names,
        _lukemelas_config,
        _lukemelas_source,
        licence="Apache-2.0",
    ),
    Family(
        "efficientnet_timm",
        "EfficientNets of timm, tf_efficientnet_*: Noisy Student's too",
        lambda names: "conv_stem.weight" in names and "blocks.0.0.conv_dw.weight" in names,
        _timm_config,
        _timm_source,
        licence="Apache-2.0",
        architectures=r"tf_efficientnet_(b\d|l2|lite\d).*",
        assumed="tf_efficientnet_*; timm's efficientnet_* have the same names, other padding and "
        "another epsilon, and are not read rightly",
        optional=("classifier",),
    ),
)
