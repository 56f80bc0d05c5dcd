"""Weights of AlexNet and VGG-16 with batch normalisation: DeepCluster's; torchvision's and timm's.

The convolutions are `features.N`: each is followed by its normalisation, a ReLU, and the last of a
group by a max-pool. The dense layers are `classifier.N`, in timm convolutions `pre_logits.fcN`.
"""

import math
import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import models
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, Family, Tensors, fill_run, flat_kernel, from_torch, split
from jssl.convert.preprocessing import set_preprocessing
from jssl.errors import UserError
from jssl.models.plain import SOBEL

_POOLED = {"alexnet": 6, "vgg16": 7}  # side of the last maps of a picture of 224 px
# fc6, fc7 and the classifier of torchvision, and of timm
_DENSE = {"alexnet": ("1", "4", "6"), "vgg16": ("0", "3", "6")}
_FILTER = (r"sobel\..*", "DeepCluster's Sobel filter, equal to jssl's")


def _strip(tensors: Tensors) -> Tensors:
    """Removes the `module.` of a network whose convolutions alone were distributed."""
    return {name.replace("features.module.", "features."): x for name, x in tensors.items()}


def _set_model(config: ConfigDict, tensors: Tensors, channels: int) -> None:
    """Sets `model` to the net of a file, and `augment.size` to 224.

    Args:
        channels: of the input, 2 behind a Sobel filter.

    Raises:
        UserError: a net without batch normalisation, or of another input.
    """
    width, inputs, size = tensors["features.0.weight"].shape[:3]
    name = {11: "alexnet", 3: "vgg16"}.get(size)
    if name is None or inputs != channels or "features.1.running_mean" not in tensors:
        raise UserError(
            f"The file has a net of convolutions whose first is of {size} px on {inputs} channels"
            f"{'' if 'features.1.running_mean' in tensors else ', without batch normalisation'}: "
            f"expected AlexNet (11 px) or VGG-16 (3 px) with batch normalisation, on {channels} "
            "channels. jssl has no AlexNet or VGG without it."
        )
    config.model.update({**models.DEFAULTS, "name": name, "sobel": channels == 2})
    config.model.dropout = 0.5
    config.model.width = width / {"alexnet": 96, "vgg16": 64}[name]
    config.augment.size = 224


def _deepcluster_config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("deepcluster", preset="v1")
    channels = 2 if "sobel.0.weight" in tensors else 3
    if channels == 2:
        _check_filter(tensors)
    _set_model(config, tensors, channels)
    config.data.eval_interpolation = "bilinear"
    own = config.deepcluster
    own.num_clusters, features = tensors["top_layer.weight"].shape
    own.pca_dim = min(own.pca_dim, features)
    return fill_run(config)


def _check_filter(tensors: Tensors) -> None:
    grey, filters = (np.asarray(tensors[f"sobel.{i}.weight"]) for i in (0, 1))
    biases = [np.asarray(tensors[f"sobel.{i}.bias"]) for i in (0, 1)]
    same = grey.size == 3 and np.allclose(grey, 1 / 3) and not any(np.any(b) for b in biases)
    if not same or filters.shape[2:] != (3, 3) or not np.array_equal(filters[:, 0], SOBEL):
        raise UserError(
            "The Sobel filter of the net in the file is not DeepCluster's: expected the mean of "
            "the channels, and the two filters of its official code."
        )


def _vgg_config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("supervised", preset="imagenet")
    _set_model(config, tensors, 3)
    config.data.eval_interpolation = "bilinear"  # of torchvision's weights
    set_preprocessing(config, weights, normalize="imagenet", crop=0.875)
    name = "head.fc" if "head.fc.weight" in tensors else "classifier.6"
    config.supervised.num_classes = tensors[f"{name}.weight"].shape[0]
    return fill_run(config)


def _conv_name(model: str, module: str) -> str:
    """The name of the n-th convolution or its normalisation.

    Example:
        >>> _conv_name('alexnet', 'conv3'), _conv_name('vgg16', 'bn2')
        ('features.8', 'features.4')
    """
    kind, number = re.fullmatch(r"(conv|bn)(\d+)", module).groups()  # type: ignore[union-attr]
    net = models.make_alexnet() if model == "alexnet" else models.make_vgg16()
    before = net.layers[: int(number) - 1]
    return f"features.{sum(3 + layer.pooled for layer in before) + (kind == 'bn')}"


def _module_name(config: ConfigDict, top: str, module: str, head: str) -> str:
    """The name of a layer in a file whose last dense layer is called `head`."""
    model = config.model.name
    if top != "encoder":
        return head
    if not module.startswith("fc"):
        return _conv_name(model, module)
    place = int(module.removeprefix("fc")) - 6
    return f"classifier.{_DENSE[model][place]}"


def _deepcluster_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    return f"{_module_name(config, top, module, 'top_layer')}.{torch_leaf}"


def _vgg_source(leaf: str, config: ConfigDict) -> str | None:
    if leaf.split(".")[0] not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    return f"{_module_name(config, top, module, 'classifier.6')}.{torch_leaf}"


def _from_timm(tensors: Tensors) -> Tensors:
    """Renames timm's dense layers, which are convolutions there, to torchvision's."""
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3",
             "head.fc": "classifier.6"}  # fmt: skip
    renamed = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module in ("pre_logits.fc1", "pre_logits.fc2") and leaf == "weight":
            tensor = np.asarray(tensor)
            tensor = tensor.reshape(len(tensor), -1)
        renamed[f"{names[module]}.{leaf}" if module in names else name] = tensor
    return renamed


def _convert(leaf: str, array: np.ndarray, config: ConfigDict) -> np.ndarray:
    if not leaf.endswith("encoder.fc6.kernel"):
        return from_torch(leaf, array)
    channels = round({"alexnet": 256, "vgg16": 512}[config.model.name] * config.model.width)
    side = math.isqrt(array.shape[1] // channels)
    if side != _POOLED[config.model.name]:
        raise UserError(
            f"The {config.model.name} in the file takes maps of {side}x{side} at its first dense "
            f"layer: expected {_POOLED[config.model.name]}, of pictures of 224 px."
        )
    return flat_kernel(array, channels)


FAMILIES: Iterable[Family] = (
    Family(
        "deepcluster",
        "DeepCluster, https://github.com/facebookresearch/deepcluster: AlexNet and VGG-16",
        lambda names: (
            "top_layer.weight" in names
            and not names.isdisjoint({"classifier.3.weight", "classifier.4.weight"})
        ),
        _deepcluster_config,
        _deepcluster_source,
        dropped=(COUNTER, _FILTER),
        licence="CC-BY-NC 4.0",
        convert=_convert,
        prepare=_strip,
    ),
    Family(
        "vgg",
        "VGG-16 with batch normalisation of torchvision and timm",
        lambda names: (
            "features.0.weight" in names
            and ("classifier.6.weight" in names or "head.fc.weight" in names)
        ),
        _vgg_config,
        _vgg_source,
        licence="BSD-3-Clause (torchvision)",
        architectures=r"vgg16_bn(\..*)?",
        assumed="torchvision's preprocessing",
        convert=_convert,
        prepare=_from_timm,
    ),
)
