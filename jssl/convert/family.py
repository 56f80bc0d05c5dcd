"""What a kind of published weights file is to jssl: its names, its network, its licence."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jssl.convert.containers import Weights

Tensors = Mapping[str, Any]
IMAGENET_EXAMPLES = 1_281_167
# Leaf of a jssl network -> its name in torch.
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias",
          "mean": "running_mean", "var": "running_var"}  # fmt: skip
COUNTER = (r"(.*\.)?num_batches_tracked", "torch's counter of batches, which nothing reads")


class Family(NamedTuple):
    """A kind of weights file.

    Attributes:
        name: as `--family` takes it.
        about: the paper and who publishes such files.
        matches: `(names) -> bool`: whether a file's names are of this kind.
        config: `(weights) -> config`: the run that such a network is of.
        source: `(leaf of the state, config) -> name in the file`, None for a leaf that no file of
            this kind has.
        dropped: (pattern of a name, reason) for tensors that jssl does not read.
        licence: of the published files.
        architectures: pattern of the `architecture` that a folder's config.json may name: other
            networks can have the same names and shapes, and compute something else.
        assumed: what a file without a config.json is taken for.
        optional: modules of the network that a file may be without, as `classifier`.
        convert: `(leaf, array, config) -> array` in jssl's layout; from torch's by default.
        prepare: `(tensors) -> tensors`, before anything else is read of them; for a family whose
            network has a parameter that jssl keeps as a part of another.
    """

    name: str
    about: str
    matches: Callable[[frozenset[str]], bool]
    config: Callable[[Weights], ConfigDict]
    source: Callable[[str, ConfigDict], str | None]
    dropped: tuple[tuple[str, str], ...] = (COUNTER,)
    licence: str = "see where the file is published"
    architectures: str = ".*"
    assumed: str = ""
    optional: tuple[str, ...] = ()
    convert: Callable[[str, np.ndarray, ConfigDict], np.ndarray] = lambda leaf, array, config: (
        from_torch(leaf, array)
    )
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors


def from_torch(leaf: str, array: np.ndarray) -> np.ndarray:
    """A torch tensor in jssl's layout: convolutions [h,w,in,out], dense layers [in,out].

    Example:
        >>> from_torch('params.conv.kernel', np.zeros((8, 3, 5, 7))).shape
        (5, 7, 3, 8)
    """
    if not leaf.endswith("kernel"):
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def split(leaf: str) -> tuple[str, str, str]:
    """A leaf of a network in three: its top module, the module in it, the torch name of the leaf.

    Example:
        >>> split('params.encoder.bn_init.scale')
        ('encoder', 'bn_init', 'weight')
    """
    _, top, *middle, last = leaf.split(".")
    return top, ".".join(middle), LEAVES.get(last, last)


def arguments(weights: Weights) -> Mapping[str, Any]:
    """The arguments of the network that a folder's config.json gives; {} without any."""
    given = weights.other.get("model_args")
    return given if isinstance(given, Mapping) else {}


def flat_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of a dense layer after a flatten, for maps [h,w,C] where torch has [C,h,w].

    Args:
        kernel: [out, C h w], torch's.
        channels: C; the maps are square.

    Returns:
        [h w C, out].

    Raises:
        ValueError: no square maps of so many channels.

    Example:
        >>> print(flat_kernel(np.arange(8).reshape(1, 8), channels=2).ravel())
        [0 4 1 5 2 6 3 7]
    """
    side = math.isqrt(kernel.shape[1] // channels)
    if side * side * channels != kernel.shape[1]:
        raise ValueError(f"a dense layer of {kernel.shape[1]} inputs after {channels} channels")
    maps = kernel.reshape(-1, channels, side, side)
    return maps.transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def fill_run(config: ConfigDict, examples: int = IMAGENET_EXAMPLES) -> ConfigDict:
    """Sets the lengths of a run on ImageNet, on which published networks were trained.

    Args:
        config: in place.
        examples: for a method whose state has a row for each: fewer than ImageNet has, since the
            rows start anew when training goes on.
    """
    steps = max(1, examples // config.batch_size)
    config.run.update(
        num_examples=examples,
        steps_per_epoch=steps,
        total_steps=max(1, round(steps * config.epochs)),
    )
    config.data.name = "imagenet2012"
    return config


def reason(name: str, dropped: tuple[tuple[str, str], ...]) -> str | None:
    """Why a tensor is left out; None where no pattern fits its name."""
    return next((why for pattern, why in dropped if re.fullmatch(pattern, name)), None)
