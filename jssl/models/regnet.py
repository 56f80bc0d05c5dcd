"""RegNetY, DeiT's teachers: residual bottlenecks with group convolutions and linear widths.

Radosavovic et al., CVPR 2020, https://arxiv.org/abs/2003.13678; with squeeze and excite ('Y'):

    u_j = w_0 + w_a j,  s_j = log(u_j / w_0) / log w_m,  w_j = w_0 w_m^round(s_j)    block j
    blocks of one width form a stage, whose first block has stride 2

    block: 1x1, 3x3 in groups, squeeze and excite, 1x1; + shortcut; ReLU

The squeeze is a quarter of the block's INPUT. Parameters and padding are as in torchvision and
timm, https://github.com/facebookresearch/pycls.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jssl.models.conv import Conv
from jssl.models.norm import norm_of
from jssl.types import Array


class Line(NamedTuple):
    """Parameters of the widths of a network."""

    depth: int
    start: int  # w_0
    slope: float  # w_a
    step: float  # w_m
    group: int  # channels of a group


SIZES: dict[str, Line] = {
    "regnety_400mf": Line(16, 48, 27.89, 2.09, 8),
    "regnety_800mf": Line(14, 56, 38.84, 2.4, 16),
    "regnety_8gf": Line(17, 192, 76.82, 2.19, 56),
    "regnety_16gf": Line(18, 200, 106.23, 2.48, 112),
}
_SQUEEZE = 0.25
_STEM = 32
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def stages_of(line: Line) -> tuple[tuple[int, int, int], ...]:
    """Returns (blocks, channels, channels of a group) of each stage.

    Example:
        >>> stages_of(SIZES['regnety_16gf'])
        ((2, 224, 112), (4, 448, 112), (11, 1232, 112), (1, 3024, 112))
    """
    u = line.start + line.slope * np.arange(line.depth)
    s = np.round(np.log(u / line.start) / math.log(line.step))
    block_widths = (np.round(line.start * line.step**s / 8) * 8).astype(int)
    widths, blocks = np.unique(block_widths, return_counts=True)
    stages = []
    for width, count in zip(widths.tolist(), blocks.tolist(), strict=True):
        group = min(line.group, width)
        near = max(group, int(width + group / 2) // group * group)  # whole groups, .5 upwards
        stages.append((count, near + group if near < 0.9 * width else near, group))
    return tuple(stages)


class RegNet(nn.Module):
    """A RegNetY without its classifier.

    Attributes:
        stages: (blocks, channels, channels of a group) of each.
        small_images: the stem has stride 1, for images of 32 pixels.
        bn_groups, bn_interleaved, bn_momentum, bn_epsilon, bn_unbiased_running_var: see
            `BatchNorm`.
        axis_name: over which batch statistics are averaged.
        dtype: of the computation; parameters and statistics are float32.
    """

    stages: tuple[tuple[int, int, int], ...]
    small_images: bool = False
    bn_groups: int = 1
    bn_interleaved: bool = False
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C], normalised as in the method.
            train: batch statistics instead of running ones.

        Returns:
            float32 [B,D], the global average of the last stage; `stem` and `block_group1` ...
            [B,h,w,c] by name.
        """
        x = self._conv(x.astype(self.dtype), _STEM, 3, 1 if self.small_images else 2, "conv_init")
        x = nn.relu(self._norm(x, "bn_init", train))
        named = {"stem": x}
        for stage, (blocks, channels, group) in enumerate(self.stages, start=1):
            for block in range(blocks):
                stride = 2 if block == 0 else 1
                name = f"block_group{stage}_block{block}"
                x = self._block(x, channels, group, stride, name, train)
            named[f"block_group{stage}"] = x
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2)), named

    def _block(
        self, x: Array, channels: int, group: int, stride: int, name: str, train: bool
    ) -> Array:
        squeezed, shortcut = round(_SQUEEZE * x.shape[-1]), x
        if x.shape[-1] != channels or stride != 1:
            shortcut = self._conv(x, channels, 1, stride, f"{name}_shortcut")
            shortcut = self._norm(shortcut, f"{name}_shortcut_bn", train)
        y = self._conv(x, channels, 1, 1, f"{name}_conv0")
        y = nn.relu(self._norm(y, f"{name}_bn0", train))
        y = nn.Conv(
            channels,
            (3, 3),
            strides=stride,
            padding=((1, 1), (1, 1)),
            feature_group_count=channels // group,
            use_bias=False,
            kernel_init=_INIT,
            dtype=self.dtype,
            name=f"{name}_conv1",
        )(y)
        y = nn.relu(self._norm(y, f"{name}_bn1", train))
        gate = jnp.mean(y.astype(jnp.float32), axis=(1, 2), keepdims=True)
        gate = nn.relu(self._conv(gate, squeezed, 1, 1, f"{name}_se_reduce", use_bias=True))
        gate = self._conv(gate, channels, 1, 1, f"{name}_se_expand", use_bias=True)
        y = y * nn.sigmoid(gate)
        y = self._norm(self._conv(y, channels, 1, 1, f"{name}_conv2"), f"{name}_bn2", train)
        return nn.relu(y + shortcut)

    def _conv(
        self, x: Array, features: int, size: int, stride: int, name: str, use_bias: bool = False
    ) -> Array:
        pad = size // 2
        return Conv(
            features,
            (size, size),
            strides=stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=use_bias,
            kernel_init=_INIT,
            dtype=self.dtype,
            name=name,
        )(x)

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        norm = norm_of(self, name)
        return norm(x, train=train)


def make_regnet(name: str, **switches: Any) -> RegNet:
    """Builds a RegNetY by name.

    Example:
        >>> len(make_regnet('regnety_400mf').stages)
        4
    """
    return RegNet(stages_of(SIZES[name]), **switches)
