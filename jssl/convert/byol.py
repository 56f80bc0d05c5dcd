"""Weights of BYOL, https://github.com/google-deepmind/deepmind-research/tree/master/byol."""

import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert.containers import Weights
from jssl.convert.family import Family, Tensors, fill_run
from jssl.errors import UserError
from jssl.models.resnet import DEPTHS

_ONLINE, _TARGET = "online_params/", "target_params/"
_FIELDS = {
    "params": "online_params",
    "batch_stats": "online_state",
    "target": "target_params",
    "target_batch_stats": "target_state",
}
# Leaf of a normalisation -> its module's suffix and its name in Haiku.
_BN = {
    "scale": ("", "scale"),
    "bias": ("", "offset"),
    "mean": ("/~/mean_ema", "average"),
    "var": ("/~/var_ema", "average"),
}
_DROPPED = (
    (r".*_state/.*/~/(mean|var)_ema/(counter|hidden)", "the running averages before correction"),
    (
        r"target_(params|state)/(predictor|classifier)/.*",
        "the target's predictor and classifier, which BYOL does not use",
    ),
)


def _torso(names: Iterable[str]) -> str:
    """The name of the encoder's module.

    Example:
        >>> _torso(['online_params/res_net50/~/initial_conv/w'])
        'res_net50'
    """
    pattern = re.compile(rf"{_ONLINE}(\w+)/~/initial_conv/w")
    return next((m[1] for name in names if (m := pattern.fullmatch(name))), "")


def _prepare(tensors: Tensors) -> Tensors:
    """Names every encoder `encoder`, whichever class it is of."""
    torso = _torso(tensors)
    pattern = re.compile(rf"({'|'.join(_FIELDS.values())})/{re.escape(torso)}/~/")
    return {pattern.sub(r"\1/encoder/", name): tensor for name, tensor in tensors.items()}


def _config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("byol", preset="imagenet")
    block = re.compile(rf"{_ONLINE}encoder/block_group_(\d)/~/block_(\d+)/~/conv_(\d)/w")
    convs = [tuple(map(int, m.groups())) for name in tensors if (m := block.fullmatch(name))]
    sizes = tuple(1 + max(b for g, b, _ in convs if g == group) for group in range(4))
    bottleneck = any(conv == 2 for _, _, conv in convs)
    names = [name for name, kind in DEPTHS.items() if kind == (bottleneck, sizes)]
    if not names:
        raise UserError(
            f"The ResNet in the file has blocks {sizes}: expected one of {', '.join(DEPTHS)}."
        )
    stem = tensors[f"{_ONLINE}encoder/initial_conv/w"].shape[3]
    channels = tensors[f"{_ONLINE}encoder/block_group_0/~/block_0/~/conv_0/w"].shape[3]
    config.model.name = names[0]
    config.model.width = channels / 64
    config.model.stem_width_fixed = stem == 64 != channels
    config.data.eval_interpolation = "bicubic"
    config.byol.proj_hidden = tensors[f"{_ONLINE}projector/linear/w"].shape[1]
    config.byol.num_classes = tensors[f"{_ONLINE}classifier/w"].shape[1]
    config.byol.proj_dim = tensors[f"{_ONLINE}projector/linear_1/w"].shape[1]
    return fill_run(config)


def _source(leaf: str, config: ConfigDict) -> str | None:
    field, _, rest = leaf.partition(".")
    if field not in _FIELDS:
        return None
    if rest.startswith("classifier."):
        return f"{_FIELDS[field]}/classifier/{ {'kernel': 'w', 'bias': 'b'}[rest[11:]] }"
    top, module, last = rest.split(".")
    place = _encoder_module(module) if top == "encoder" else _head_module(module)
    if last == "kernel":
        return f"{_FIELDS[field]}/{top}/{place}/w"
    if last == "bias" and module.startswith("dense"):
        return f"{_FIELDS[field]}/{top}/{place}/b"
    suffix, name = _BN[last]
    return f"{_FIELDS[field]}/{top}/{place}{suffix}/{name}"


def _encoder_module(module: str) -> str:
    """The name of a module of the ResNet.

    Example:
        >>> _encoder_module('block_group1_block2_bn0'), _encoder_module('conv_init')
        ('block_group_0/~/block_2/~/batchnorm_0', 'initial_conv')
    """
    match = re.fullmatch(r"block_group(\d)_block(\d+)_(\w+)", module)
    if match is None:
        return {"conv_init": "initial_conv", "bn_init": "initial_batchnorm"}[module]
    group, block, part = match.groups()
    part = {"shortcut": "shortcut_conv", "shortcut_bn": "shortcut_batchnorm"}.get(part, part)
    part = re.sub(r"^(conv|bn)(\d)$", lambda m: f"{_KINDS[m[1]]}_{m[2]}", part)
    return f"block_group_{int(group) - 1}/~/block_{block}/~/{part}"


_KINDS = {"conv": "conv", "bn": "batchnorm"}


def _head_module(module: str) -> str:
    return {"dense0": "linear", "bn0": "batch_norm", "dense1": "linear_1"}[module]


def _convert(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Haiku's layout is jssl's, but for the axes of size 1 of a normalisation."""
    return array if leaf.endswith("kernel") else array.reshape(-1)


FAMILIES: Iterable[Family] = (
    Family(
        "byol",
        "BYOL, https://github.com/google-deepmind/deepmind-research/tree/master/byol",
        lambda names: bool(_torso(names)) and any(n.startswith(_TARGET) for n in names),
        _config,
        _source,
        dropped=_DROPPED,
        licence="CC-BY-NC 4.0",
        convert=_convert,
        prepare=_prepare,
    ),
)
