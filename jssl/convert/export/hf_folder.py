"""Exports a folder of transformers: model.safetensors, config.json, preprocessor_config.json.

The names are those on disk. Since 5.0 transformers has other ones in memory and converts:
`vit.encoder.layer.0.attention.attention.query` becomes `vit.layers.0.attention.q_proj`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl.convert.export import writing
from jssl.convert.export.card import card, preprocessing
from jssl.convert.export.checks import check_network
from jssl.convert.export.names import family_name, named_tensors, num_classes
from jssl.convert.network import Network
from jssl.models.resnet import DEPTHS
from jssl.models.vit import SIZES

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
_LAYER_NORM_EPSILON = 1e-6  # of jssl and timm; the default of transformers is 1e-12
# Of a block: timm's module -> that of transformers. A table and q, k, v are split off before.
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_OF_BLOCK = {
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "attn.relative_position_bias_table": "attention.attention.relative_position_bias."
    "relative_position_bias_table",
}
_TOP = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "fc_norm.weight": "pooler.layernorm.weight",
    "fc_norm.bias": "pooler.layernorm.bias",
}


class Kind(NamedTuple):
    """A model of transformers: its `model_type`, and its classes with and without a classifier."""

    model_type: str
    classifier: str
    encoder: str


_RESNET = Kind("resnet", "ResNetForImageClassification", "ResNetModel")
_VIT = Kind("vit", "ViTForImageClassification", "ViTModel")
_DISTILLED = Kind("deit", "DeiTForImageClassificationWithTeacher", "DeiTModel")
_BEIT = Kind("beit", "BeitForImageClassification", "BeitModel")


def kind_of(config: Any) -> Kind:
    """The model of transformers that a network is."""
    family = family_name(config)
    if family == "deit":
        return _DISTILLED if config.model.distillation_token else _VIT
    return {"resnet": _RESNET, "beit": _BEIT}[family]


def resnet_name(name: str) -> str:
    """The name in transformers of a tensor of torchvision's ResNet.

    Example:
        >>> resnet_name('layer2.0.conv1.weight')
        'resnet.encoder.stages.1.layers.0.layer.0.convolution.weight'
        >>> resnet_name('bn1.bias'), resnet_name('fc.bias')
        ('resnet.embedder.embedder.normalization.bias', 'classifier.1.bias')
    """
    if name.startswith("fc."):
        return name.replace("fc", "classifier.1")
    layer = re.match(r"layer(\d)\.(\d+)\.", name)
    rest = name[layer.end() :] if layer else name
    part, leaf = rest.rsplit(".", 1)
    if part.startswith("downsample"):
        part = "shortcut." + ("convolution", "normalization")[int(part[-1])]
    else:
        kind = "convolution" if part.startswith("conv") else "normalization"
        part = f"layer.{int(part[-1]) - 1}.{kind}" if layer else f"embedder.embedder.{kind}"
    stage = f"encoder.stages.{int(layer[1]) - 1}.layers.{layer[2]}." if layer else ""
    return f"resnet.{stage}{part}.{leaf}"


def vit_tensors(
    name: str, tensor: np.ndarray, kind: str, distilled: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """What a tensor of timm's ViT is in transformers: one tensor, or three of q, k and v.

    Args:
        name: in timm.
        tensor: its values.
        kind: `model_type`.
        distilled: whether there are two classifiers.
    """
    block = re.match(r"blocks\.(\d+)\.", name)
    if name.startswith("head"):
        top = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
        module, leaf = name.split(".")
        yield f"{top[module] if distilled else 'classifier'}.{leaf}", tensor
    elif block is None:
        yield f"{kind}.{_TOP[name]}", tensor
    else:
        start, rest = f"{kind}.encoder.layer.{block[1]}.", name[block.end() :]
        module, _, leaf = rest.rpartition(".")
        if module == "attn.qkv":
            for part, values in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                yield f"{start}attention.attention.{part}.{leaf}", np.ascontiguousarray(values)
        else:
            yield start + (_OF_BLOCK.get(rest) or f"{_BLOCK[module]}.{leaf}"), tensor


def hf_tensors(config: Any, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under torchvision's or timm's names -> under those of transformers.

    A ResNet's counters of batches are added, as transformers reports each that is missing.
    """
    kind = kind_of(config).model_type
    if kind == "resnet":
        counters = {
            name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
            for name in tensors
            if name.endswith("running_mean")
        }
        return {resnet_name(name): tensor for name, tensor in {**tensors, **counters}.items()}
    distilled = bool(config.model.distillation_token)
    return dict(
        pair for name, tensor in tensors.items()
        for pair in vit_tensors(name, tensor, kind, distilled)
    )  # fmt: skip


def hf_config(config: Any, classes: int) -> dict[str, Any]:
    """The content of config.json.

    Args:
        config: of the run.
        classes: of the classifier; 0 without one.
    """
    kind = kind_of(config)
    content: dict[str, Any] = {
        "architectures": [kind.classifier if classes else kind.encoder],
        "model_type": kind.model_type,
        "num_channels": 3,
    }
    if classes:
        content["id2label"] = {str(i): f"LABEL_{i}" for i in range(classes)}
        content["label2id"] = {f"LABEL_{i}": i for i in range(classes)}
    if kind is _RESNET:
        return {**content, **_resnet_config(config.model)}
    return {**content, **_vit_config(config, kind)}


def _resnet_config(model: Any) -> dict[str, Any]:
    bottleneck, blocks = DEPTHS[model.name]
    channels = [round(64 * model.width * 2**group) for group in range(4)]
    return {
        "embedding_size": 64 if model.stem_width_fixed else channels[0],
        "hidden_sizes": [4 * c if bottleneck else c for c in channels],
        "depths": list(model.stage_sizes) or list(blocks),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _vit_config(config: Any, kind: Kind) -> dict[str, Any]:
    model, size = config.model, SIZES[config.model.name]
    dim = round(size.dim * model.width)
    content = {
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
        "num_hidden_layers": model.depth or size.depth,
        "num_attention_heads": model.heads or size.heads,
        "hidden_act": "gelu",
        "layer_norm_eps": _LAYER_NORM_EPSILON,
        "image_size": config.augment.size,
        "patch_size": model.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind is not _BEIT:
        return {**content, "qkv_bias": True}
    return {
        **content,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": model.pool == "mean",
        "layer_scale_init_value": model.layer_scale,
        "drop_path_rate": model.stochastic_depth,
    }


def preprocessor_config(config: Any) -> dict[str, Any]:
    """The content of preprocessor_config.json: short side, central crop, mean and deviation.

    It names CLIP's processor, the one of transformers that resizes the short side and crops; a
    ViT's would resize both sides.
    """
    pixels = preprocessing(config)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(pixels["size"] / pixels["crop"])},
        "resample": _RESAMPLE[pixels["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": pixels["size"], "width": pixels["size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": pixels["mean"],
        "image_std": pixels["std"],
    }


def export_hf(network: Network, output: str | Path) -> list[Path]:
    """Writes a folder that transformers loads, `from_pretrained(FOLDER)`.

    Args:
        network: of the run.
        output: the folder, new or empty.

    Returns:
        The path of the folder.

    Raises:
        UserError: a folder that is not empty, or a network that transformers does not have.
    """
    path = writing.check_folder(output)
    config = network.config
    check_network(config, network.params, "hf")
    named, left_out = named_tensors(network)
    tensors, classes = hf_tensors(config, named), num_classes(named)
    kind = kind_of(config)
    # Without its argument transformers adds a pooler with random weights.
    pooler = ", add_pooling_layer=False" if not classes and kind in (_VIT, _DISTILLED) else ""
    use = f"""
from transformers import {kind.classifier if classes else kind.encoder}, AutoImageProcessor
net = {kind.classifier if classes else kind.encoder}.from_pretrained("{path.name}"{pooler})
pixels = AutoImageProcessor.from_pretrained("{path.name}")(pictures, return_tensors="pt")
"""
    contents = {
        "config.json": hf_config(config, classes),
        "preprocessor_config.json": preprocessor_config(config),
    }
    return writing.write_folder(
        path,
        {
            "model.safetensors": writing.safetensors_bytes(tensors),
            **{name: (json.dumps(x, indent=1) + "\n").encode() for name, x in contents.items()},
            writing.CARD: card(network, path.name, tensors, left_out=left_out, use=use).encode(),
        },
    )
