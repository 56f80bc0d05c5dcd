"""Weights of EfficientNets, Noisy Student's among them, under three kinds of names.

Those of timm, of lukemelas' EfficientNet-PyTorch, and of the official TensorFlow code, whose
checkpoints hold each variable twice; the moving average is what is evaluated.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
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
    classifier = f"{'_fc' if names == 0 else 'classifier'}.weight"
    classes = tensors[classifier].shape[0] if classifier in tensors else 0
    return _config_of(weights, stem, blocks, last, head, lite, classes)


def _config_of(
    weights: Weights, stem: int, blocks: int, last: int, head: int, lite: bool, classes: int
) -> ConfigDict:
    config = config_lib.base("supervised", preset="imagenet")
    _set_model(config, stem, blocks, last, head, lite)
    crop = _CROPS.get(config.model.name, 0.875)
    set_preprocessing(config, weights, normalize="half" if lite else "imagenet", crop=crop)
    if classes:
        config.supervised.num_classes = classes
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


_AVERAGE = "/ExponentialMovingAverage"
_TF_LEAVES = {"kernel": "kernel", "bias": "beta", "scale": "gamma",
              "mean": "moving_mean", "var": "moving_variance"}  # fmt: skip
# A module of a block -> TensorFlow's name with an expansion, and without.
_TF_BLOCK = {
    "expand": ("conv2d", ""),
    "expand_bn": ("tpu_batch_normalization", ""),
    "depthwise": ("depthwise_conv2d", "depthwise_conv2d"),
    "depthwise_bn": ("tpu_batch_normalization_1", "tpu_batch_normalization"),
    "se_reduce": ("se/conv2d", "se/conv2d"),
    "se_expand": ("se/conv2d_1", "se/conv2d_1"),
    "project": ("conv2d_1", "conv2d"),
    "project_bn": ("tpu_batch_normalization_2", "tpu_batch_normalization_1"),
}


def _without_scope(tensors: Tensors) -> Tensors:
    """Removes the name of the network, `efficientnet-b0/`, from those of its variables."""
    return {re.sub(r"^efficientnet-\w+/", "", name): tensor for name, tensor in tensors.items()}


def _tf_config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    blocks = {m[1] for name in tensors if (m := re.match(r"blocks_(\d+)/", name))}
    *_, last, head = tensors[f"head/conv2d/kernel{_AVERAGE}"].shape
    stem = tensors[f"stem/conv2d/kernel{_AVERAGE}"].shape[3]
    classes = tensors[f"head/dense/kernel{_AVERAGE}"].shape[1]
    lite = not any("/se/" in name for name in tensors)
    return _config_of(weights, stem, len(blocks), last, head, lite, classes)


def _tf_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] not in ("params", "batch_stats"):
        return None
    top, module, _ = split(leaf)
    last = leaf.rpartition(".")[2]
    if top == "classifier":
        return f"head/dense/{last}{_AVERAGE}"
    block = re.fullmatch(r"block(\d+)_(\w+)", module)
    if block is None:
        part, kind = module.split("_")
        layer = "conv2d" if kind == "conv" else "tpu_batch_normalization"
        return f"{part}/{layer}/{_TF_LEAVES[last]}{_AVERAGE}"
    _, _, expands = make_efficientnet(config.model.name).place(int(block[1]))
    layer = _TF_BLOCK[block[2]][0 if expands else 1]
    name = "bias" if last == "bias" and not block[2].endswith("_bn") else _TF_LEAVES[last]
    name = "depthwise_kernel" if layer == "depthwise_conv2d" else name
    return f"blocks_{block[1]}/{layer}/{name}{_AVERAGE}"


def _tf_convert(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    """TensorFlow's layout is jssl's, but for depthwise kernels, [h,w,C,1] there."""
    return array.swapaxes(2, 3) if leaf.endswith("_depthwise.kernel") else array


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
    Family(
        "efficientnet_tf",
        "EfficientNets of the official code and Noisy Student, "
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet",
        lambda names: any(
            re.fullmatch(rf"efficientnet-\w+/stem/conv2d/kernel{_AVERAGE}", name) for name in names
        ),
        _tf_config,
        _tf_source,
        dropped=(
            (rf"(?!.*{_AVERAGE}$).*", "the weights before averaging, and the optimiser's state"),
        ),
        licence="Apache-2.0",
        convert=_tf_convert,
        prepare=_without_scope,
    ),
)
