"""Weights of Vision Transformers under timm's names: ViT and DeiT, plain and distilled; BEiT."""

import math
import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import models
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, Family, Tensors, arguments, fill_run, split
from jssl.convert.preprocessing import set_preprocessing
from jssl.errors import UserError
from jssl.models.vit import OFFICIAL, SIZES

_PARTS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_OF_BLOCK = {
    "gamma1": "gamma_1",
    "gamma2": "gamma_2",
    "q_bias": "attn.q_bias",
    "v_bias": "attn.v_bias",
    "relative_table": "attn.relative_position_bias_table",
}
_SHARED = "rel_pos_bias.relative_position_bias_table"  # one for all blocks, in pre-training
_INDEX = (r".*relative_position_index", "an index that follows from the number of patches")


def set_model(config: ConfigDict, tensors: Tensors, recipe: str) -> None:
    """Sets `model` to the ViT of a file, and `augment.size` to that of its positions.

    Raises:
        UserError: no ViT that jssl has.
    """
    dim, _, _, patch = tensors["patch_embed.proj.weight"].shape
    depth = len({m[1] for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))})
    names = [name for name, size in SIZES.items() if size.dim == dim]
    if not names:
        raise UserError(
            f"The Vision Transformer in the file has tokens of {dim} numbers: expected one of "
            + ", ".join(f"{name} ({size.dim})" for name, size in SIZES.items())
        )
    config.model.update({**models.DEFAULTS, **OFFICIAL[recipe], "name": names[0]})
    config.model.patch_size = patch
    config.model.depth = 0 if depth == SIZES[names[0]].depth else depth
    if "pos_embed" in tensors:
        extra = 1 + ("dist_token" in tensors)
        config.augment.size = patch * math.isqrt(tensors["pos_embed"].shape[1] - extra)
    else:  # a table of (2 g - 1)^2 offsets and 3 of the class token, for g patches a side
        rows = tensors["blocks.0.attn.relative_position_bias_table"].shape[0]
        config.augment.size = patch * ((math.isqrt(rows - 3) + 1) // 2)


def _set_variant(config: ConfigDict, weights: Weights) -> None:
    """Sets what the last normalisation and a folder's config.json say of the network."""
    config.model.pool = "mean" if "fc_norm.weight" in weights.tensors else "class"
    heads = arguments(weights).get("num_heads", 0)
    config.model.heads = 0 if heads == SIZES[config.model.name].heads else heads


def _deit_config(weights: Weights) -> ConfigDict:
    distilled = "dist_token" in weights.tensors
    config = config_lib.base("deit", preset="imagenet")
    set_model(config, weights.tensors, "deit_distilled" if distilled else "deit")
    config.deit.distillation = "none"  # a file has no teacher
    if "head.weight" in weights.tensors:
        config.deit.num_classes = weights.tensors["head.weight"].shape[0]
    _set_variant(config, weights)
    set_preprocessing(config, weights, normalize="imagenet", crop=0.875)
    return fill_run(config)


def _beit_config(weights: Weights) -> ConfigDict:
    config = config_lib.base("supervised", preset="beit_imagenet")
    set_model(config, weights.tensors, "beit_finetune")
    if "head.weight" in weights.tensors:
        config.supervised.num_classes = weights.tensors["head.weight"].shape[0]
    _set_variant(config, weights)
    set_preprocessing(config, weights, normalize="half", crop=0.9)
    return fill_run(config)


def _pretrained_config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("beit", preset="imagenet")
    vit = dict(tensors)
    vit["blocks.0.attn.relative_position_bias_table"] = tensors[_SHARED]
    set_model(config, vit, "beit")
    config.data.eval_interpolation = "bicubic"
    # The file has no tokenizer: that of the state is small, and nothing that is read here uses it.
    config.beit.update(tokenizer="random", hidden=8, vocabulary=tensors["lm_head.weight"].shape[0])
    patches = (config.augment.size // config.model.patch_size) ** 2
    config.beit.masked = min(config.beit.masked, patches - 1)
    config.beit.min_block = min(config.beit.min_block, config.beit.masked)
    return fill_run(config)


def _pretrained_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf == "params.encoder.relative_table":
        return _SHARED
    top = leaf.split(".")[1] if leaf.startswith("params.") else ""
    return f"lm_head.{split(leaf)[2]}" if top == "head" else _source(leaf, config)


def _source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] != "params":
        return None
    top, module, torch_leaf = split(leaf)
    if top != "encoder":
        return f"{ {'classifier': 'head', 'classifier_dist': 'head_dist'}[top] }.{torch_leaf}"
    return name_of(module, torch_leaf)


def name_of(module: str, torch_leaf: str) -> str:
    """The name of a tensor in timm's state dict.

    Example:
        >>> name_of('block0.qkv', 'weight'), name_of('', 'cls_token')
        ('blocks.0.attn.qkv.weight', 'cls_token')
    """
    if not module:
        return torch_leaf  # a token or the positions
    if module == "patch_embed":
        return f"patch_embed.proj.{torch_leaf}"
    block, _, part = module.partition(".")
    if not block.startswith("block"):
        return f"{module}.{torch_leaf}"
    name = f"blocks.{block.removeprefix('block')}"
    if not part:
        return f"{name}.{_OF_BLOCK[torch_leaf]}"
    return f"{name}.{_PARTS.get(part, part)}.{torch_leaf}"


# torchvision's names -> timm's, applied in order.
_TORCHVISION = [(re.compile(pattern), new) for pattern, new in (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)]  # fmt: skip


def _from_torchvision(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, new in _TORCHVISION:
            name = pattern.sub(new, name)
        renamed[name] = tensor
    return renamed


def _torchvision_config(weights: Weights) -> ConfigDict:
    config = _deit_config(weights)
    config.data.eval_interpolation = "bilinear"  # of torchvision's first weights
    return config


FAMILIES: Iterable[Family] = (
    Family(
        "vit_torchvision",
        "Vision Transformers of torchvision",
        lambda names: {"class_token", "conv_proj.weight", "encoder.pos_embedding"} <= names,
        _torchvision_config,
        _source,
        licence="BSD-3-Clause (torchvision)",
        assumed="the preprocessing of torchvision's first weights",
        prepare=_from_torchvision,
        optional=("classifier",),
    ),
    Family(
        "deit",
        "DeiT, https://github.com/facebookresearch/deit, and other ViTs of timm",
        lambda names: (
            {"pos_embed", "blocks.0.attn.qkv.weight"} <= names
            and "blocks.0.attn.q_bias" not in names
        ),
        _deit_config,
        _source,
        licence="Apache-2.0 (DeiT)",
        architectures=r"(deit|vit)_(tiny|small|base|large)(_distilled)?_patch\d+_\d+(\..*)?",
        assumed="DeiT's preprocessing; other ViTs may have pixels of mean and deviation .5",
        optional=("classifier",),
    ),
    Family(
        "beit",
        "BEiT after fine-tuning, https://github.com/microsoft/unilm/tree/master/beit",
        lambda names: (
            {"blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight"} <= names and _SHARED not in names
        ),
        _beit_config,
        _source,
        dropped=(COUNTER, _INDEX),
        licence="MIT",
        architectures=r"beit(v2)?_(base|large)_patch\d+_\d+(\..*)?",
        assumed="BEiT's preprocessing; BEiT v2 has ImageNet's mean and deviation",
        optional=("classifier",),
    ),
    Family(
        "beit_pretrained",
        "BEiT before fine-tuning, https://github.com/microsoft/unilm/tree/master/beit",
        lambda names: {_SHARED, "lm_head.weight", "mask_token"} <= names,
        _pretrained_config,
        _pretrained_source,
        dropped=(COUNTER, _INDEX),
        licence="MIT",
        assumed="a network whose tokens are DALL-E's; read its dVAE too to train it further",
    ),
)
