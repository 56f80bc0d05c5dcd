"""Exports a folder of timm: model.safetensors and a config.json."""

import json
import re
from pathlib import Path
from typing import Any

from jssl.convert.export import writing
from jssl.convert.export.card import card, pretrained_cfg
from jssl.convert.export.checks import check_network
from jssl.convert.export.names import family_name, named_tensors, num_classes
from jssl.convert.network import Network
from jssl.methods._common import channels_of
from jssl.models.resnet import DEPTHS
from jssl.models.vit import SIZES

TENSORS, CONFIG = "model.safetensors", "config.json"
_FIRST = {"resnet": "conv1", "efficientnet_timm": "conv_stem", "regnet_timm": "stem.conv"}
_CLASSIFIERS = {"resnet": "fc", "efficientnet_timm": "classifier", "regnet_timm": "head.fc"}
_REGNETS = {"400mf": "004", "800mf": "008", "8gf": "080", "16gf": "160"}
# Size of a ViT -> timm's name of the nearest network, and the size that this name has.
_DISTILLED = ("vit_tiny", "vit_small", "vit_base")
_BEIT = ("vit_base", "vit_large")


def architecture(config: Any) -> tuple[str, dict[str, Any]]:
    """timm's name of a network, and the arguments in which it differs from what has that name.

    Args:
        config: of the run.

    Example:
        >>> from jssl import models
        >>> from ml_collections import ConfigDict
        >>> model = {**models.DEFAULTS, 'name': 'resnet10'}
        >>> architecture(ConfigDict({'model': model, 'augment': {'size': 224}}))
        ('resnet18', {'layers': [1, 1, 1, 1]})
    """
    model, family = config.model, family_name(config)
    if family == "resnet":
        bottleneck, blocks = DEPTHS[model.name]
        blocks = tuple(model.stage_sizes) or blocks
        names = [name for name, kind in DEPTHS.items() if kind == (bottleneck, blocks)]
        if names and names[0] in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
            return names[0], {}
        return "resnet50" if bottleneck else "resnet18", {"layers": list(blocks)}
    if family == "efficientnet_timm":
        epsilon = {} if model.bn_epsilon == 1e-3 else {"bn_eps": model.bn_epsilon}
        return f"tf_{model.name}", epsilon
    if family == "regnet_timm":
        return f"regnety_{_REGNETS[model.name.removeprefix('regnety_')]}", {}
    return _vit(config, family)


def _vit(config: Any, family: str) -> tuple[str, dict[str, Any]]:
    model, name = config.model, config.model.name
    if family == "beit":
        like = name if name in _BEIT else "vit_base"
        timm_name = f"beit_{like.removeprefix('vit_')}_patch16_224"
    elif model.distillation_token:
        like = name if name in _DISTILLED else "vit_base"
        timm_name = f"deit_{like.removeprefix('vit_')}_distilled_patch16_224"
    else:
        like, timm_name = name, f"{name}_patch16_224"
    own, size = SIZES[name], SIZES[like]
    values = {
        "img_size": (config.augment.size, 224),
        "patch_size": (model.patch_size, 16),
        "embed_dim": (round(own.dim * model.width), size.dim),
        "depth": (model.depth or own.depth, size.depth),
        "num_heads": (model.heads or own.heads, size.heads),
        "global_pool": ("token" if model.pool == "class" else "avg",
                        "avg" if family == "beit" else "token"),
    }  # fmt: skip
    return timm_name, {key: value for key, (value, other) in values.items() if value != other}


def timm_config(network: Network, classes: int, features: int) -> dict[str, Any]:
    """The content of config.json.

    Args:
        network: of the run.
        classes: of the classifier; 0 without one.
        features: width of the encoder's output.
    """
    config, family = network.config, family_name(network.config)
    name, arguments = architecture(config)
    channels = channels_of(config)
    if channels != 3:
        arguments = {**arguments, "in_chans": channels}
    classifier: Any = _CLASSIFIERS.get(family, "head")
    if config.model.distillation_token:
        classifier = ["head", "head_dist"]
    about = {
        **pretrained_cfg(config),
        "fixed_input_size": family in ("deit", "beit"),
        "crop_mode": "center",
        "num_classes": classes,
        # Where it is named, timm fits weights for three channels to other ones.
        "first_conv": _FIRST.get(family, "patch_embed.proj") if channels == 3 else None,
        "classifier": classifier,
    }
    written = {"architecture": name, "num_classes": classes, "num_features": features}
    if arguments:
        written["model_args"] = arguments
    return {**written, "pretrained_cfg": about}


def export_timm(network: Network, output: str | Path) -> list[Path]:
    """Writes a folder that timm loads, `timm.create_model('local-dir:FOLDER', pretrained=True)`.

    Args:
        network: of the run.
        output: the folder, new or empty.

    Returns:
        The path of the folder.

    Raises:
        UserError: a folder that is not empty, or a network that timm does not have.
    """
    path = writing.check_folder(output)
    check_network(network.config, network.params, "timm")
    tensors, left_out = named_tensors(network)
    classes, features = num_classes(tensors), _features(tensors)
    use = f"""
import timm
net = timm.create_model("local-dir:{path.name}", pretrained=True)

embed, state = jssl.load_pretrained("{path.name}")  # of jssl
"""
    content = timm_config(network, classes, features)
    text = card(network, path.name, tensors, left_out=left_out, use=use)
    return writing.write_folder(
        path,
        {
            TENSORS: writing.safetensors_bytes(tensors),
            CONFIG: (json.dumps(content, indent=1) + "\n").encode(),
            writing.CARD: text.encode(),
        },
    )


def _features(tensors: dict[str, Any]) -> int:
    """The width of the output: of the last normalisation, which every network has."""
    for name in ("fc_norm.weight", "norm.weight", "bn2.weight"):
        if name in tensors:
            return int(tensors[name].shape[0])
    last = max(
        name
        for name in tensors
        if re.match(r"layer4\.\d+\.bn\d\.weight|s4\.b\d+\.conv3\.bn\.weight", name)
    )
    return int(tensors[last].shape[0])
