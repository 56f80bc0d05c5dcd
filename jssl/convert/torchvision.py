"""Converts a ResNet's parameters to torchvision's names and torch's layout."""

import re
from typing import Any

import numpy as np

from jssl.run import checkpoint
from jssl.types import PyTree

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias",
           "mean": "running_mean", "var": "running_var"}  # fmt: skip
_BLOCK = re.compile(r"block_group(\d+)_block(\d+)_(conv|bn|shortcut_bn|shortcut)(\d*)")


def torchvision_name(path: str) -> str:
    """Returns the name of a leaf of `jssl.models.ResNet` in torchvision's state dict.

    Args:
        path: 'MODULE.LEAF'.

    Raises:
        ValueError: not a leaf of a ResNet with batch normalisation.

    Example:
        >>> torchvision_name('block_group2_block0_conv1.kernel')
        'layer2.0.conv2.weight'
        >>> torchvision_name('block_group1_block0_shortcut_bn.var')
        'layer1.0.downsample.1.running_var'
        >>> torchvision_name('bn_init.scale')
        'bn1.weight'
    """
    module, _, leaf = path.rpartition(".")
    block = _BLOCK.fullmatch(module)
    if leaf not in _LEAVES or not (block or module in ("conv_init", "bn_init")):
        raise ValueError(f"'{path}' is not a leaf of a ResNet with batch normalisation.")
    if block is None:
        return f"{module.removesuffix('_init')}1.{_LEAVES[leaf]}"
    group, number, kind, place = block.groups()
    if kind.startswith("shortcut"):
        part = f"downsample.{int(kind == 'shortcut_bn')}"
    else:
        part = f"{kind}{int(place) + 1}"
    return f"layer{group}.{number}.{part}.{_LEAVES[leaf]}"


def torchvision_resnet(params: PyTree, batch_stats: PyTree) -> dict[str, np.ndarray]:
    """Converts an encoder to torchvision's state dict, without the classifier.

    Args:
        params: of a `ResNet`, kernels [h,w,in,out].
        batch_stats: its running statistics.

    Returns:
        Name -> float32, kernels [out,in,h,w]; without `num_batches_tracked`.

    Raises:
        ValueError: as `torchvision_name`.

    Example:
        >>> params = {'conv_init': {'kernel': np.zeros((7, 7, 3, 64))}}
        >>> {name: x.shape for name, x in torchvision_resnet(params, {}).items()}
        {'conv1.weight': (64, 3, 7, 7)}
    """
    leaves = {**checkpoint.flat_leaves(params), **checkpoint.flat_leaves(batch_stats)}
    return {torchvision_name(path): _in_torch(leaf) for path, leaf in leaves.items()}


def _in_torch(leaf: Any) -> np.ndarray:
    x = np.asarray(leaf, np.float32)
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x)
