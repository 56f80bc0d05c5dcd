"""Reads a folder of transformers as one of timm, or of torchvision for a ResNet.

The names are those on disk. transformers keeps query, key and value apart, timm has them in one;
BEiT's key has no bias. Its config.json and preprocessor_config.json are checked and translated.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jssl.convert.containers import Weights
from jssl.convert.family import Tensors
from jssl.errors import UserError

_TYPES = ("vit", "deit", "beit", "resnet", "regnet", "efficientnet")  # of `model_type`
_ATTENTION = re.compile(r"(blocks\.\d+)\.attn\.(query|key|value)\.(weight|bias)")
_TABLE = "relative_position_bias.relative_position_bias_table"
# Applied in order; what fits none keeps its name.
_VIT = [(re.compile(pattern), new) for pattern, new in (
    (r"^(vit|deit|beit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (rf"\.attention\.attention\.{re.escape(_TABLE)}$", ".attn.relative_position_bias_table"),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^cls_classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
    (r"^classifier\.", "head."),
)]  # fmt: skip
_RESNET = [(re.compile(pattern), new) for pattern, new in (
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"\.layer\.(\d)\.convolution\.", r".conv+\1."),
    (r"\.layer\.(\d)\.normalization\.", r".bn+\1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^encoder\.stages\.(\d)\.layers\.", r"layer+\1."),
    (r"^classifier\.1\.", "fc."),
)]  # fmt: skip
_REGNET = [(re.compile(pattern), new) for pattern, new in (
    (r"^regnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "stem.conv."),
    (r"^embedder\.embedder\.normalization\.", "stem.bn."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", r"s+\1.b+\2."),
    (r"\.layer\.2\.attention\.0\.", ".se.fc1."),
    (r"\.layer\.2\.attention\.2\.", ".se.fc2."),
    (r"\.layer\.0\.convolution\.", ".conv1.conv."),
    (r"\.layer\.0\.normalization\.", ".conv1.bn."),
    (r"\.layer\.1\.convolution\.", ".conv2.conv."),
    (r"\.layer\.1\.normalization\.", ".conv2.bn."),
    (r"\.layer\.3\.convolution\.", ".conv3.conv."),
    (r"\.layer\.3\.normalization\.", ".conv3.bn."),
    (r"\.shortcut\.convolution\.", ".downsample.conv."),
    (r"\.shortcut\.normalization\.", ".downsample.bn."),
    (r"^classifier\.1\.", "head.fc."),
)]  # fmt: skip


# To the names of lukemelas' EfficientNet-PyTorch, which count the blocks through.
_EFFICIENTNET = [(re.compile(pattern), new) for pattern, new in (
    (r"^efficientnet\.", ""),
    (r"^embeddings\.convolution\.", "_conv_stem."),
    (r"^embeddings\.batchnorm\.", "_bn0."),
    (r"^encoder\.top_conv\.", "_conv_head."),
    (r"^encoder\.top_bn\.", "_bn1."),
    (r"^encoder\.blocks\.", "_blocks."),
    (r"\.expansion\.expand_conv\.", "._expand_conv."),
    (r"\.expansion\.expand_bn\.", "._bn0."),
    (r"\.depthwise_conv\.depthwise_conv\.", "._depthwise_conv."),
    (r"\.depthwise_conv\.depthwise_norm\.", "._bn1."),
    (r"\.squeeze_excite\.(reduce|expand)\.", r"._se_\1."),
    (r"\.projection\.project_conv\.", "._project_conv."),
    (r"\.projection\.project_bn\.", "._bn2."),
    (r"^classifier\.", "_fc."),
)]  # fmt: skip


class Joined:
    """Tensors one after the other along their first axis, read when they are asked for."""

    def __init__(self, parts: list[Any]):
        self.parts = parts
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.concatenate([np.asarray(part, dtype) for part in self.parts])


def model_type(names: Iterable[str]) -> str:
    """The kind of model of transformers that has tensors of these names; '' for none.

    Example:
        >>> model_type(['deit.embeddings.cls_token']), model_type(['conv1.weight'])
        ('deit', '')
    """
    for name in names:
        match = re.match(r"(\w+)\.(embeddings|embedder|encoder)\.", name)
        if match is not None and match[1] in _TYPES:
            return match[1]
    return ""


def renamed(name: str, kind: str) -> str:
    """The name of a tensor in timm; of a ResNet in torchvision, of an EfficientNet in lukemelas'.

    Args:
        name: in transformers, on disk.
        kind: `model_type`.

    Example:
        >>> renamed('vit.encoder.layer.3.intermediate.dense.bias', 'vit')
        'blocks.3.mlp.fc1.bias'
        >>> renamed('resnet.encoder.stages.0.layers.2.layer.1.convolution.weight', 'resnet')
        'layer1.2.conv2.weight'
    """
    tables = {"resnet": _RESNET, "regnet": _REGNET, "efficientnet": _EFFICIENTNET}
    for pattern, new in tables.get(kind, _VIT):
        name = pattern.sub(new, name)
    # transformers counts from 0 what the others count from 1.
    return re.sub(r"\+(\d+)", lambda match: str(int(match[1]) + 1), name)


def from_transformers(weights: Weights) -> Weights:
    """Translates the weights of a model of transformers; others are returned as they are.

    Raises:
        UserError: a network that computes something else than jssl's of these shapes; a query
            without its key and value.
    """
    kind = model_type(weights.tensors)
    if not kind:
        return weights
    _check(weights, kind)
    other = {k: v for k, v in weights.other.items() if k != "preprocessor"}
    if "num_attention_heads" in other:
        other["model_args"] = {"num_heads": other["num_attention_heads"]}
    preprocessor = weights.other.get("preprocessor")
    if isinstance(preprocessor, Mapping):
        other["pretrained_cfg"] = _pixels(preprocessor, weights)
    return weights._replace(tensors=dict(_rename(weights.tensors, kind)), other=other)


# Key of config.json -> what jssl's networks are.
_EXPECTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "relu", "swish"),
    "pooling_type": ("mean",),
    "qkv_bias": (True,),
    "downsample_in_bottleneck": (False,),
    "use_absolute_position_embeddings": (False,),
    "num_channels": (3,),
}
_MAX_EPSILON = 1e-5  # of layer normalisation: jssl's is 1e-6, ViT's 1e-12


def _check(weights: Weights, kind: str) -> None:
    """Refuses a config.json that names a network of the same shapes which jssl does not have."""
    config = weights.other
    heads, dim = config.get("num_attention_heads"), config.get("hidden_size")
    expected = {**_EXPECTED, "downsample_in_first_stage": (kind == "regnet",)}
    if isinstance(dim, int) and heads is not None:
        expected["num_attention_heads"] = tuple(n for n in range(1, 65) if dim % n == 0)
    for key, values in expected.items():
        if key in config and config[key] not in values:
            raise UserError(
                f"'{weights.path}' has {key} {config[key]!r} in its config.json: expected "
                f"{' or '.join(map(repr, values[:4]))}. jssl has no network with the other."
            )
    if config.get("batch_norm_eps", 1e-3) != 1e-3:
        raise UserError(
            f"'{weights.path}' has batch_norm_eps {config['batch_norm_eps']!r} in its config.json: "
            "expected 0.001."
        )
    epsilon = config.get("layer_norm_eps", 0.0)
    if not isinstance(epsilon, float) or epsilon > _MAX_EPSILON:
        raise UserError(
            f"'{weights.path}' has layer_norm_eps {epsilon!r} in its config.json: expected at most "
            f"{_MAX_EPSILON:g}."
        )


def _pixels(preprocessor: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """The `pretrained_cfg` of timm that says what a preprocessor_config.json does."""
    size, crop = (_side(preprocessor.get(key)) for key in ("size", "crop_size"))
    share = preprocessor.get("crop_pct")
    if share is None:
        cropped = preprocessor.get("do_center_crop", False) and crop and size
        share = crop / size if cropped else 1.0
        size = crop if cropped else size
    resample = {2: "bilinear", 3: "bicubic"}.get(preprocessor.get("resample", 2), "another way")
    if not size or preprocessor.get("do_normalize", True) is not True:
        raise UserError(
            f"'{weights.path}' has a preprocessor_config.json without a size, or without "
            "normalisation: expected both."
        )
    return {
        "mean": preprocessor.get("image_mean", (0.5,) * 3),
        "std": preprocessor.get("image_std", (0.5,) * 3),
        "input_size": (3, size, size),
        "crop_pct": share,
        "interpolation": resample,
    }


def _side(value: Any) -> int:
    """The side in pixels that a number, or a dict of them, says; 0 for none."""
    if isinstance(value, Mapping):
        value = value.get("shortest_edge", value.get("height"))
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _rename(tensors: Tensors, kind: str) -> Tensors:
    """Renames the tensors of a model, and joins each query, key and value."""
    result: dict[str, Any] = {}
    attention: dict[tuple[str, str], dict[str, Any]] = {}
    for own, tensor in tensors.items():
        name = renamed(own, kind)
        match = _ATTENTION.fullmatch(name)
        if match is not None:
            block, part, leaf = match.groups()
            attention.setdefault((block, leaf), {})[part] = tensor
        else:
            result[name] = tensor
    for (block, leaf), parts in attention.items():
        if leaf == "bias" and kind == "beit":
            result |= {f"{block}.attn.{part[0]}_bias": tensor for part, tensor in parts.items()}
            continue
        if set(parts) != {"query", "key", "value"}:
            raise UserError(
                f"The {leaf} of {block} in the file has {', '.join(sorted(parts))}: expected "
                "query, key and value."
            )
        shapes = {tuple(part.shape) for part in parts.values()}
        if len(shapes) > 1 or () in shapes:
            raise UserError(
                f"The {leaf} of {block} in the file has query, key and value of shapes "
                f"{', '.join(str(list(part.shape)) for part in parts.values())}: expected one."
            )
        result[f"{block}.attn.qkv.{leaf}"] = Joined([parts[n] for n in ("query", "key", "value")])
    return result
