"""Weights of RegNetY, DeiT's teachers: names of timm and of torchvision."""

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import models
from jssl.convert.containers import Weights
from jssl.convert.family import Family, fill_run, split
from jssl.convert.preprocessing import set_preprocessing
from jssl.errors import UserError
from jssl.models.regnet import SIZES, stages_of

# A module of a block -> timm's name of it, torchvision's.
_BLOCK = {
    "conv0": ("conv1.conv", "f.a.0"),
    "bn0": ("conv1.bn", "f.a.1"),
    "conv1": ("conv2.conv", "f.b.0"),
    "bn1": ("conv2.bn", "f.b.1"),
    "se_reduce": ("se.fc1", "f.se.fc1"),
    "se_expand": ("se.fc2", "f.se.fc2"),
    "conv2": ("conv3.conv", "f.c.0"),
    "bn2": ("conv3.bn", "f.c.1"),
    "shortcut": ("downsample.conv", "proj.0"),
    "shortcut_bn": ("downsample.bn", "proj.1"),
}
_TOP = {"conv_init": ("stem.conv", "stem.0"), "bn_init": ("stem.bn", "stem.1")}


def _config_of(weights: Weights, block: str, first: str, interpolation: str) -> ConfigDict:
    """The config of a file.

    Args:
        block: pattern of a block's name, with its stage and number.
        first: name of a block's first convolution.
        interpolation: of the library's pictures.
    """
    tensors = weights.tensors
    stages: dict[int, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(rf"{block}\.{re.escape(first)}\.weight", name):
            stage = int(match[1])
            count = stages.get(stage, (0, 0))[0] + 1
            stages[stage] = count, tensor.shape[0]
    shape = tuple(stages[stage] for stage in sorted(stages))
    squeezes = any(".se.fc1." in name for name in tensors)
    sizes = [
        size
        for size, line in SIZES.items()
        if squeezes and tuple(stage[:2] for stage in stages_of(line)) == shape
    ]
    if not sizes:
        raise UserError(
            f"The RegNet in the file has stages of (blocks, channels) {shape}"
            f"{'' if squeezes else ' and no squeeze and excite'}: expected one of "
            f"{', '.join(SIZES)}."
        )
    config = config_lib.base("supervised", preset="imagenet")
    config.model.update({**models.DEFAULTS, "name": sizes[0]})
    config.augment.size = 224
    config.data.eval_interpolation = interpolation
    set_preprocessing(config, weights, normalize="imagenet", crop=0.875)
    return config


def _timm_config(weights: Weights) -> ConfigDict:
    config = _config_of(weights, r"s(\d)\.b(\d+)", "conv1.conv", "bicubic")
    if "head.fc.weight" in weights.tensors:
        config.supervised.num_classes = weights.tensors["head.fc.weight"].shape[0]
    return fill_run(config)


def _torchvision_config(weights: Weights) -> ConfigDict:
    config = _config_of(weights, r"trunk_output\.block(\d)\.block\d-(\d+)", "f.a.0", "bilinear")
    config.supervised.num_classes = weights.tensors["fc.weight"].shape[0]
    return fill_run(config)


def name_of(module: str, library: int) -> str:
    """The name of a module of `RegNet` in timm (library 0) or torchvision (1).

    Example:
        >>> name_of('block_group2_block0_conv1', 0), name_of('block_group2_block0_conv1', 1)
        ('s2.b1.conv2.conv', 'trunk_output.block2.block2-0.f.b.0')
    """
    match = re.fullmatch(r"block_group(\d)_block(\d+)_(\w+)", module)
    if match is None:
        return _TOP[module][library]
    stage, number, part = match.groups()
    if library == 0:
        return f"s{stage}.b{int(number) + 1}.{_BLOCK[part][0]}"
    return f"trunk_output.block{stage}.block{stage}-{number}.{_BLOCK[part][1]}"


def _source_of(library: int, classifier: str):
    def source(leaf: str, config: ConfigDict) -> str | None:
        if leaf.split(".")[0] not in ("params", "batch_stats"):
            return None
        top, module, torch_leaf = split(leaf)
        name = classifier if top == "classifier" else name_of(module, library)
        return f"{name}.{torch_leaf}"

    return source


FAMILIES: Iterable[Family] = (
    Family(
        "regnet_timm",
        "RegNetY of timm, and DeiT's teacher, https://github.com/facebookresearch/deit",
        lambda names: {"stem.conv.weight", "s1.b1.conv1.conv.weight"} <= names,
        _timm_config,
        _source_of(0, "head.fc"),
        licence="Apache-2.0 (DeiT)",
        architectures=r"regnety_(004|008|080|160)(\..*)?",
        assumed="256 px resized, 224 cut, as DeiT evaluates its teacher",
        optional=("classifier",),
    ),
    Family(
        "regnet_torchvision",
        "RegNetY of torchvision",
        lambda names: "trunk_output.block1.block1-0.f.a.0.weight" in names,
        _torchvision_config,
        _source_of(1, "fc"),
        licence="BSD-3-Clause (torchvision)",
        assumed="the preprocessing of torchvision's first weights",
    ),
)
