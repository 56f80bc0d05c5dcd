"""Weights of DeepCluster v2 and SwAV, https://github.com/facebookresearch/swav.

A SwAV file is read as a run of DeepCluster v2 with one head: the networks are the same, and the
prototypes, which SwAV learns, are read as that head's.
"""

import re
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert import resnets
from jssl.convert.containers import Weights
from jssl.convert.family import COUNTER, Family, Tensors, fill_run, split
from jssl.convert.torchvision import torchvision_name

_PREFIX = "module."
_HEAD = f"{_PREFIX}projection_head"


def _prototypes(tensors: Iterable[str]) -> list[str]:
    """The names of the prototypes, one for each head."""
    numbered = re.compile(re.escape(_PREFIX) + r"prototypes\.prototypes(\d+)\.weight")
    heads = sorted((int(m[1]), name) for name in tensors if (m := numbered.fullmatch(name)))
    return [name for _, name in heads] or [f"{_PREFIX}prototypes.weight"]


def _config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("deepcluster_v2", preset="v2")
    resnets.set_model(config, tensors, _PREFIX)
    config.augment.update(size=224, normalize="swav")
    config.data.eval_interpolation = "bilinear"  # as in its eval_linear.py
    own = config.deepcluster_v2
    own.num_clusters = tuple(tensors[name].shape[0] for name in _prototypes(tensors))
    own.proj_hidden = tensors[f"{_HEAD}.0.weight"].shape[0]
    own.proj_dim = tensors[f"{_HEAD}.3.weight"].shape[0]
    # A bank of ImageNet's size has 1.3 GB; training fills its own before the first epoch.
    return fill_run(config, examples=max(own.num_clusters))


def _source(leaf: str, config: ConfigDict) -> str | None:
    field = leaf.split(".")[0]
    if field == "prototypes":
        one = len(config.deepcluster_v2.num_clusters) == 1
        name = "prototypes" if one else f"prototypes.prototypes{leaf.split('.')[1]}"
        return f"{_PREFIX}{name}.weight"
    if field not in ("params", "batch_stats"):
        return None
    top, module, torch_leaf = split(leaf)
    if top == "encoder":
        return _PREFIX + torchvision_name(leaf.removeprefix(f"{field}.encoder."))
    layer = {"dense0": 0, "bn0": 1, "dense1": 3}[module]
    return f"{_HEAD}.{layer}.{torch_leaf}"


def _fold_bias(tensors: Tensors) -> Tensors:
    """Takes the bias of the projector's first layer from the running mean of its normalisation.

    jssl's layer has no bias, since BN(W x + b) with mean m is BN(W x) with mean m - b.
    """
    bias, mean = f"{_HEAD}.0.bias", f"{_HEAD}.1.running_mean"
    if bias not in tensors or mean not in tensors:
        return tensors
    shapes = [tuple(tensors[name].shape) for name in (bias, mean)]
    if shapes[0] != shapes[1]:  # numpy would broadcast
        raise ValueError(f"{bias} has shape {list(shapes[0])}, expected {list(shapes[1])}")
    others = {name: tensor for name, tensor in tensors.items() if name != bias}
    return {**others, mean: np.asarray(tensors[mean]) - np.asarray(tensors[bias])}


FAMILIES: Iterable[Family] = (
    Family(
        "deepcluster_v2",
        "DeepCluster v2 and SwAV, https://github.com/facebookresearch/swav",
        lambda names: f"{_HEAD}.0.weight" in names and any("prototypes" in n for n in names),
        _config,
        _source,
        dropped=(COUNTER,),
        licence="CC-BY-NC 4.0",
        prepare=_fold_bias,
    ),
)
