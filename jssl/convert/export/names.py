"""Tensors of a network under the names and in the layout of torchvision and timm.

The names are those by which `jssl.convert.pretrained` reads such files: the same functions.
"""

import re
from typing import Any

import numpy as np

from jssl.convert.network import Network
from jssl.convert.pretrained import FAMILIES
from jssl.errors import UserError
from jssl.models.position import expand_shared_table, sincos_position_embedding
from jssl.run import checkpoint

# Pattern of model.name -> name of the family of files.
_FAMILIES = (("resnet", "resnet"), ("efficientnet", "efficientnet_timm"), ("regnet", "regnet_timm"))
CLASSIFIERS = ("classifier", "classifier_dist")
SUPPORTED = "ResNets, Vision Transformers, EfficientNets and RegNetYs"


def family_name(config: Any) -> str:
    """The family of weights files that a run's network is of.

    Raises:
        UserError: an architecture without one.

    Example:
        >>> from ml_collections import ConfigDict
        >>> family_name(ConfigDict({'model': {'name': 'vit_tiny', 'qkv_bias': 'no_key'}}))
        'beit'
    """
    name = config.model.name
    for start, family in _FAMILIES:
        if name.startswith(start):
            return family
    if name.startswith("vit"):
        return "beit" if config.model.qkv_bias == "no_key" else "deit"
    raise UserError(
        f"No names of another library are known for the network '{name}': expected one of "
        f"{SUPPORTED}. Type --format=onnx, which takes every network."
    )


def to_torch(array: np.ndarray, leaf: str) -> np.ndarray:
    """An array in torch's layout: convolutions [out,in,h,w], dense layers [out,in].

    Args:
        array: of jssl.
        leaf: its path.

    Returns:
        float32, contiguous: safetensors writes wrong values for views.

    Example:
        >>> to_torch(np.zeros((5, 7, 3, 8)), 'params.conv.kernel').shape
        (8, 3, 5, 7)
    """
    if leaf.endswith("kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array, np.float32)


def named_tensors(network: Network) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of encoder and classifier under torchvision's or timm's names.

    Returns:
        Name -> float32 array, contiguous; and the modules that were left out.

    Raises:
        UserError: no encoder, or an architecture without such names.
    """
    config, family = network.config, FAMILIES[family_name(network.config)]
    if "encoder" not in network.params:
        raise UserError(
            f"The run in '{network.folder}' is of method '{config.method}', whose parameters "
            f"{sorted(network.params)} have no 'encoder'. Type another --workdir, or --format=onnx."
        )
    tensors: dict[str, np.ndarray] = {}
    left_out = set()
    for path, array in _leaves(network).items():
        top = path.split(".")[1]
        if top not in ("encoder", *CLASSIFIERS):
            left_out.add(top)
        elif path.endswith("mask_token"):
            left_out.add("mask_token")
        else:
            name = family.source(path, config)
            assert name is not None and name not in tensors, path
            tensors[name] = to_torch(array, path)
    if config.model.name.startswith("vit") and config.model.position == "sincos":
        tensors["pos_embed"] = _fixed_positions(config, tensors["cls_token"].shape[-1])
    return tensors, tuple(sorted(left_out))


def _leaves(network: Network) -> dict[str, np.ndarray]:
    """The leaves; a relative table that is shared is copied to every block, as to fine-tune."""
    leaves = network.leaves
    if "params.encoder.relative_table" not in leaves:
        return leaves
    encoder = expand_shared_table(network.params["encoder"])
    expanded = {
        f"params.encoder.{path}": np.asarray(leaf, np.float32)
        for path, leaf in checkpoint.flat_leaves(encoder).items()
    }
    others = {k: v for k, v in leaves.items() if not k.startswith("params.encoder.")}
    return {**others, **expanded}


def _fixed_positions(config: Any, dim: int) -> np.ndarray:
    """The positions that jssl computes, as a tensor: 0 for the tokens before the patches."""
    grid = config.augment.size // config.model.patch_size
    table = sincos_position_embedding((grid, grid), dim)
    extra = 1 + bool(config.model.distillation_token)
    return np.concatenate([np.zeros((extra, dim), np.float32), table])[None]


def num_classes(tensors: dict[str, np.ndarray]) -> int:
    """The number of classes of the classifier among the tensors; 0 without one.

    Example:
        >>> num_classes({'fc.weight': np.zeros((10, 512))}), num_classes({})
        (10, 0)
    """
    for name, tensor in tensors.items():
        if re.fullmatch(r"(fc|head|head\.fc|classifier)\.weight", name):
            return tensor.shape[0]
    return 0
