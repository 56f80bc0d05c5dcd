"""AlexNet of DeepCluster, and CMC's AlexNet with half the channels for one view.

Krizhevsky et al., NeurIPS 2012, both with batch normalisation. DeepCluster: Caron et al., ECCV
2018, https://arxiv.org/abs/1807.05520, see `plain`. CMC: Tian et al., ECCV 2020,
https://arxiv.org/abs/1906.05849; official code https://github.com/HobbitLong/CMC,
models/alexnet.py. Its last layer, fc8, is the method's head.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.models.conv import TORCH_INIT, Conv
from jssl.models.norm import BatchNorm, norm_of
from jssl.models.plain import Layer, PlainNet
from jssl.types import Array

# channels, kernel, stride, padding, pooled afterwards
_CONVS = (
    (48, 11, 4, 2, True),
    (128, 5, 1, 2, True),
    (192, 3, 1, 1, False),
    (192, 3, 1, 1, False),
    (128, 3, 1, 1, True),
)
_FC = 2048


class AlexNetHalf(nn.Module):
    """Five convolutions and two dense layers, each with batch normalisation and ReLU.

    Attributes:
        bn_groups, bn_momentum, bn_epsilon, bn_unbiased_running_var: see `BatchNorm`.
        axis_name: over which batch statistics are averaged.
        dtype: of the computation; parameters and statistics are float32.
    """

    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C] with H, W of at least 63; the paper's are 224.
            train: batch statistics instead of running ones.

        Returns:
            float32 [B,2048], of fc7; and `conv1` ... `conv5` [B,h,w,c] after their pool and `fc6`
            [B,2048] by name. CMC's linear classifiers use `conv5`.
        """
        x = x.astype(self.dtype)
        named = {}
        for i, (width, size, stride, pad, pooled) in enumerate(_CONVS, start=1):
            x = Conv(
                width,
                (size, size),
                strides=stride,
                padding=((pad, pad), (pad, pad)),
                kernel_init=TORCH_INIT,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = nn.relu(self._norm(f"bn{i}")(x, train))
            if pooled:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
            named[f"conv{i}"] = x
        x = x.reshape(x.shape[0], -1)
        for i in (6, 7):
            x = nn.Dense(_FC, kernel_init=TORCH_INIT, dtype=self.dtype, name=f"fc{i}")(x)
            x = nn.relu(self._norm(f"bn{i}")(x, train))
            named[f"fc{i}"] = x
        return named.pop("fc7").astype(jnp.float32), named

    def _norm(self, name: str) -> BatchNorm:
        return norm_of(self, name)


_LAYERS = (
    Layer(96, 11, 4, 2, pooled=True),
    Layer(256, 5, 1, 2, pooled=True),
    Layer(384, 3, 1, 1, pooled=False),
    Layer(384, 3, 1, 1, pooled=False),
    Layer(256, 3, 1, 1, pooled=True),
)


def make_alexnet(**switches: Any) -> PlainNet:
    """DeepCluster's AlexNet: five convolutions in one tower, 3x3 max-pools, two dense layers.

    Args:
        **switches: attributes of `PlainNet`.

    Example:
        >>> [layer.features for layer in make_alexnet().layers]
        [96, 256, 384, 384, 256]
    """
    return PlainNet(_LAYERS, pool=3, dropout_first=True, **switches)
