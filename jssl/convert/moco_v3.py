"""Weights of MoCo v3, https://github.com/facebookresearch/moco-v3: ResNets and ViTs."""

import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert import resnets, vits
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, Family, Tensors, fill_run, split
from jssl.convert.torchvision import torchvision_name
from jssl.errors import UserError
from jssl.models.position import sincos_position_embedding
from jssl.optim import TRANSFORMER

BASE, MOMENTUM, PREDICTOR = "module.base_encoder.", "module.momentum_encoder.", "module.predictor."
_FIELDS = {"params": BASE, "batch_stats": BASE, "target": MOMENTUM, "target_batch_stats": MOMENTUM}
_POSITIONS = (r".*encoder\.pos_embed", "fixed sine and cosine positions, equal to jssl's")


def _is_vit(names: Iterable[str]) -> bool:
    return f"{BASE}patch_embed.proj.weight" in names


def _config(weights: Weights) -> ConfigDict:
    vit = _is_vit(weights.tensors)
    config = config_lib.base("moco_v3", preset="v3_vit" if vit else "v3")
    config.data.eval_interpolation = "bilinear"  # as in its main_lincls.py
    head = f"{BASE}{'head' if vit else 'fc'}."
    layers = sorted(
        (int(m[1]), name)
        for name in weights.tensors
        if (m := re.fullmatch(re.escape(head) + r"(\d+)\.weight", name))
        and len(weights.tensors[name].shape) == 2
    )
    config.moco_v3.proj_layers = len(layers)
    config.moco_v3.proj_hidden = weights.tensors[layers[0][1]].shape[0]
    config.moco_v3.proj_dim = weights.tensors[layers[-1][1]].shape[0]
    last = f"{PREDICTOR}4.running_mean" in weights.tensors
    config.moco_v3.pred_last_bn = "plain" if last else "none"
    if vit:
        bare = {n.removeprefix(BASE): t for n, t in weights.tensors.items() if n.startswith(BASE)}
        vits.set_model(config, bare, "moco_v3")
        _check_positions(config, bare["pos_embed"])
    else:
        resnets.set_model(config, weights.tensors, BASE)
    return fill_run(config)


def _check_positions(config: ConfigDict, stored: np.ndarray) -> None:
    """Refuses positions that are not those that jssl computes: they are no parameters here."""
    grid = config.augment.size // config.model.patch_size
    expected = sincos_position_embedding((grid, grid), stored.shape[-1])
    positions = np.asarray(stored)[0, 1:]
    if positions.shape != expected.shape or np.abs(positions - expected).max() > 1e-5:
        raise UserError(
            "The positions of the Vision Transformer in the file are not MoCo v3's sines and "
            "cosines: expected those of its official code."
        )


def _source(leaf: str, config: ConfigDict) -> str | None:
    field = leaf.split(".")[0]
    if field not in _FIELDS:
        return None
    top, module, torch_leaf = split(leaf)
    vit = config.model.name.startswith("vit")
    if top == "encoder" and vit:
        return _FIELDS[field] + vits.name_of(module, torch_leaf)
    if top == "encoder":
        return _FIELDS[field] + torchvision_name(leaf.removeprefix(f"{field}.encoder."))
    layer = re.fullmatch(r"(dense|bn)(\d)", module)
    if layer is None:
        raise ValueError(f"'{leaf}' is no layer of a projector")
    place = 3 * int(layer[2]) + (layer[1] == "bn")  # a layer, its normalisation, a ReLU
    if top == "predictor":
        return f"{PREDICTOR}{place}.{torch_leaf}"
    return f"{_FIELDS[field]}{'head' if vit else 'fc'}.{place}.{torch_leaf}"


def _bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _linear_config(weights: Weights) -> ConfigDict:
    """The config of a network with a linear classifier, as its main_lincls writes it."""
    tensors = weights.tensors
    vit = "patch_embed.proj.weight" in tensors
    config = config_lib.base("supervised", preset="imagenet")
    if vit:
        vits.set_model(config, tensors, "moco_v3")
        _check_positions(config, tensors["pos_embed"])
        config.optim.rules = TRANSFORMER
    else:
        resnets.set_model(config, tensors)
    head = tensors[f"{'head' if vit else 'fc'}.weight"]
    config.supervised.num_classes = head.shape[0]
    config.data.eval_interpolation = "bilinear"
    config.augment.normalize = "imagenet"
    return fill_run(config)


def _linear_source(leaf: str, config: ConfigDict) -> str | None:
    field = leaf.split(".")[0]
    if field not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    vit = config.model.name.startswith("vit")
    if top == "classifier":
        return f"{'head' if vit else 'fc'}.{torch_leaf}"
    if vit:
        return vits.name_of(module, torch_leaf)
    return torchvision_name(leaf.removeprefix(f"{field}.encoder."))


def _is_linear(names: frozenset[str]) -> bool:
    """Whether a network with a classifier is alone under DistributedDataParallel's name."""
    heads = {"module.conv1.weight", "module.fc.weight"}, {"module.cls_token", "module.head.weight"}
    return any(wanted <= names for wanted in heads)


FAMILIES: Iterable[Family] = (
    Family(
        "moco_v3",
        "MoCo v3, https://github.com/facebookresearch/moco-v3",
        lambda names: (
            any(name.startswith(BASE) for name in names)
            and any(name.startswith(PREDICTOR) for name in names)
        ),
        _config,
        _source,
        dropped=(COUNTER, _POSITIONS),
        licence="CC-BY-NC 4.0",
    ),
    Family(
        "moco_linear",
        "linear classifiers on MoCo, linear-*.pth.tar of https://github.com/facebookresearch/moco-v3",
        _is_linear,
        _linear_config,
        _linear_source,
        dropped=(COUNTER, ("pos_embed", _POSITIONS[1])),
        licence="CC-BY-NC 4.0",
        prepare=_bare,
    ),
)
