"""Plain convolutional networks, AlexNet and VGG, as DeepCluster trains them.

Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520; official code
https://github.com/facebookresearch/deepcluster, models/alexnet.py and models/vgg16.py: batch
normalisation after every convolution, and a fixed Sobel filter on the input, so that clusters do
not depend on colour.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl.augment._pixels import normalize, to_float
from jssl.errors import UserError
from jssl.models.conv import Conv
from jssl.models.noise import dropout, row_numbers
from jssl.models.norm import BatchNorm, norm_of
from jssl.models.padding import inside
from jssl.types import Array

FC = 4096  # channels of the dense layers
_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_DENSE_INIT = nn.initializers.normal(0.01)
SOBEL = np.array(
    [[[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]], np.float32
)


class Layer(NamedTuple):
    """A convolution with batch normalisation, ReLU and optional max-pool."""

    features: int
    kernel: int
    stride: int
    padding: int
    pooled: bool


def sobel(x: Array) -> Array:
    """Computes horizontal and vertical differences of the grey image, with zero padding.

    Args:
        x: float [B,H,W,C], normalised; grey is the plain mean of the channels.

    Returns:
        float32 [B,H,W,2]: left minus right, and top minus bottom, each smoothed along the other
        axis.

    Example:
        >>> x = jnp.broadcast_to(jnp.arange(3.0).reshape(1, 1, 3, 1), (1, 3, 3, 3))
        >>> print(sobel(x)[0, 1, 1])  # -(1 + 2 + 1) * 2 across, 0 along
        [-8.  0.]
    """
    grey = jnp.mean(x.astype(jnp.float32), axis=-1)
    H, W = grey.shape[1:]
    padded = jnp.pad(grey, ((0, 0), (1, 1), (1, 1)))
    channels = [
        sum(
            float(kernel[i, j]) * padded[:, i : i + H, j : j + W]
            for i in range(3)
            for j in range(3)
            if kernel[i, j]
        )
        for kernel in SOBEL
    ]
    return jax.lax.stop_gradient(jnp.stack(channels, axis=-1))


def canvas_input(images: Array, sizes: Array | None, *, normalize_as: str, filtered: bool) -> Array:
    """Prepares pictures on a canvas: 0 beside each, after normalisation and after `sobel`.

    Args:
        images: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left.
        sizes: int32 [B,2], height and width of each picture; None: they fill the canvas.
        normalize_as: statistics, see `jssl.augment`.
        filtered: whether `sobel` is applied.

    Returns:
        float32 [B,H,W,C].
    """
    x = normalize(to_float(images), normalize_as)
    inner = None if sizes is None else inside(sizes, (images.shape[1], images.shape[2]))(x.shape)
    x = x if inner is None else jnp.where(inner, x, 0.0)
    if not filtered:
        return x
    x = sobel(x)
    return x if inner is None else jnp.where(inner, x, 0.0)


def classifier_input(encoder: nn.Module, h: Array) -> Array:
    """Returns the input of a linear classifier on an encoder, [B,D].

    AlexNet and VGG end in a dense layer BEFORE its ReLU, and a classifier comes after it. The
    features of every other encoder are used unchanged.
    """
    return nn.relu(h) if isinstance(encoder, PlainNet) else h


class PlainNet(nn.Module):
    """Sequential convolutions and two dense layers; the last ReLU belongs to the head.

    With `dropout`, training needs a key: `apply(variables, x, True, rngs={'dropout': key})`.

    Attributes:
        layers: the convolutions.
        pool: side of the max-pool's window; its stride is 2.
        dropout_first: also apply dropout to the input of the dense layers (AlexNet).
        width: multiplies every number of channels.
        sobel: use the two channels of `sobel` instead of the image.
        dropout: of the dense layers; 0: none.
        bn_groups, bn_interleaved, bn_momentum, bn_epsilon, bn_unbiased_running_var: see
            `BatchNorm`.
        axis_name: over which batch statistics are averaged.
        dtype: of the computation; parameters and statistics are float32.
    """

    layers: tuple[Layer, ...]
    pool: int
    dropout_first: bool
    width: float = 1.0
    sobel: bool = True
    dropout: float = 0.5
    bn_groups: int = 1
    bn_interleaved: bool = False
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, train: bool, rows: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C], normalised; the dense layers fix H and W, in the paper 224.
            train: batch statistics instead of running ones, and dropout.
            rows: int32 [B], the index of each image in the global batch, which determines its
                dropout; None: contiguous, by device.

        Returns:
            float32 [B,D], of the second dense layer BEFORE its ReLU: DeepCluster clusters these,
            and its head starts with the ReLU. By name: `conv1` ... [B,h,w,c] after their ReLU and
            before their pool, the inputs of linear classifiers; `pooled` [B,h,w,c], of the last
            pool; and `fc6` [B,D] after its ReLU.

        Raises:
            UserError: images too small for the pools; in training with dropout, without a key.
        """
        size = x.shape[1:3]
        x = (sobel(x) if self.sobel else x).astype(self.dtype)
        named = {}
        for i, layer in enumerate(self.layers, start=1):
            x = self._conv(layer, f"conv{i}")(x)
            x = nn.relu(self._norm(f"bn{i}")(x, train))
            named[f"conv{i}"] = x
            if layer.pooled:
                if min(x.shape[1:3]) < self.pool:
                    raise UserError(
                        f"Images of {size[0]}x{size[1]} are {x.shape[1]}x{x.shape[2]} at conv{i}, "
                        f"too small for its {self.pool}x{self.pool} max-pool. Expected larger "
                        "images (the paper's are 224): set config.augment.size, or take a ResNet."
                    )
                x = nn.max_pool(x, (self.pool, self.pool), strides=(2, 2))
        named["pooled"] = x
        key = self._dropout_key(train)

        def drop(x: Array, number: int) -> Array:
            if key is None:
                return x
            numbers = row_numbers(rows, len(x), self.axis_name)
            return dropout(jax.random.fold_in(key, number), x, rate=self.dropout, rows=numbers)

        x = x.reshape(x.shape[0], -1)
        if self.dropout_first:
            x = drop(x, 0)
        x = named["fc6"] = nn.relu(self._dense("fc6")(x))
        x = drop(x, 1)
        return self._dense("fc7")(x).astype(jnp.float32), named

    def _dropout_key(self, train: bool) -> Array | None:
        if not train or self.dropout == 0 or self.is_initializing():
            return None
        if not self.has_rng("dropout"):
            raise UserError(
                "AlexNet and VGG with dropout need a key in training. Expected apply(..., "
                "rngs={'dropout': key}); or switch it off: type --config.model.dropout=0."
            )
        return self.make_rng("dropout")

    def _conv(self, layer: Layer, name: str) -> Conv:
        return Conv(
            round(layer.features * self.width),
            (layer.kernel, layer.kernel),
            strides=layer.stride,
            padding=((layer.padding, layer.padding),) * 2,
            use_bias=True,  # no effect before BN, but the official networks have it
            kernel_init=_CONV_INIT,
            dtype=self.dtype,
            name=name,
        )

    def _dense(self, name: str) -> nn.Dense:
        width = round(FC * self.width)
        return nn.Dense(width, kernel_init=_DENSE_INIT, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> BatchNorm:
        return norm_of(self, name)


def fields_of(net: PlainNet) -> dict[str, Any]:
    """Returns the attributes of a `PlainNet`, for a network that is made of it."""
    names = [f.name for f in dataclasses.fields(PlainNet) if f.name not in ("parent", "name")]
    return {name: getattr(net, name) for name in names}
