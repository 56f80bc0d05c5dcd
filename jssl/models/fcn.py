"""Fully convolutional networks, with which MoCo, BYOL and DeepCluster measure segmentation.

`DilatedFCN`, of a residual network: He et al., CVPR 2020 (MoCo), https://arxiv.org/abs/1911.05722,
appendix A.5; Grill et al., NeurIPS 2020 (BYOL), https://arxiv.org/abs/2006.07733, appendix D.4.

`FCN32s`, of AlexNet: Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038; official code
https://github.com/shelhamer/fcn.berkeleyvision.org, voc-fcn-alexnet/net.py. DeepCluster's AlexNet
has batch normalisation and a Sobel filter where theirs has local response normalisation.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.augment._pixels import normalize, to_float
from jssl.dense.losses import pixel_loss
from jssl.dense.upsample import deconvolve_bilinear, resize_bilinear
from jssl.errors import UserError
from jssl.models.alexnet import make_alexnet
from jssl.models.conv import Conv
from jssl.models.noise import dropout, row_numbers
from jssl.models.norm import norm_of
from jssl.models.padding import inside, padded, without_padding
from jssl.models.plain import FC, PlainNet, canvas_input, fields_of
from jssl.models.resnet import ResNet
from jssl.parallel.collectives import pmean
from jssl.types import Array, Batch, PyTree

_PAD, _SIDE, _STRIDE, _OFFSET = 100, 63, 32, 18
_NEW = ("score", "cls_score", "bbox_pred")  # no part of the pre-trained network
_ALEXNET = [(x.kernel, x.stride, x.pooled) for x in make_alexnet().layers]


class _Head(nn.Module):
    """Two dilated convolutions with batch normalisation and ReLU, and the logits of each cell."""

    num_classes: int
    features: int
    dilation: int
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        for i in range(2):
            x = Conv(
                self.features,
                (3, 3),
                padding=((self.dilation,) * 2,) * 2,
                dilation=self.dilation,
                kernel_init=init,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = nn.relu(norm_of(self, f"bn{i}")(x, train))
        return Conv(
            self.num_classes,
            (1, 1),
            use_bias=True,
            kernel_init=nn.initializers.normal(0.01),
            name="score",
        )(x)


class DilatedFCN(nn.Module):
    """A residual network whose last group is dilated, two dilated convolutions, and logits.

    The publications do not say how the head starts: He's initialisation, and N(0, 0.01) for the
    last convolution, are ours.

    Attributes:
        encoder: a `ResNet` with `last_dilation=2`.
        num_classes: K, the background among them.
        features: channels of the two convolutions.
        dilation: of the two convolutions.
        normalize: statistics of the pictures, see `jssl.augment`: as in pre-training.
    """

    encoder: ResNet
    num_classes: int
    features: int = 256
    dilation: int = 6
    normalize: str = "imagenet"

    def setup(self):
        net = self.encoder
        self.segmentation = _Head(
            self.num_classes,
            self.features,
            self.dilation,
            bn_groups=net.bn_groups,
            bn_momentum=net.bn_momentum,
            bn_epsilon=net.bn_epsilon,
            bn_unbiased_running_var=net.bn_unbiased_running_var,
            axis_name=net.axis_name,
            dtype=net.dtype,
        )

    def __call__(self, images: Array, train: bool, sizes: Array | None = None) -> Array:
        """Pictures to logits.

        Args:
            images: [B,H,W,3], uint8, or float in [0, 1].
            train: batch statistics instead of running ones.
            sizes: int32 [B,2], height and width of each picture, which is at the upper left;
                None: they fill the canvas. With batch normalisation padding changes nothing.

        Returns:
            float32 [B,H,W,K].
        """
        canvas = (images.shape[1], images.shape[2])
        full = jnp.broadcast_to(jnp.array([canvas]), (len(images), 2))
        sizes = full if sizes is None else sizes
        with padded(inside(sizes, canvas)):
            x = without_padding(normalize(to_float(images), self.normalize))
            _, named = self.encoder(x, train)
            maps = self.segmentation(named[f"block_group{len(self.encoder.blocks)}"], train)
        stride = self.stride()
        extents = -(-sizes // stride)

        def resize(x: Array, extent: Array, size: Array) -> Array:
            return resize_bilinear(x, canvas, extent=extent, size=size)

        return jax.vmap(resize)(maps, extents, sizes)

    def stride(self) -> int:
        """Pixels between the cells of the encoder's last map."""
        net = self.encoder
        groups = len(net.blocks) - (1 if net.last_dilation > 1 else 0)
        return (4 if net.stem == "imagenet" else 1) * 2 ** (groups - 1)


def make_dilated_fcn(resnet: ResNet, num_classes: int, **switches: Any) -> DilatedFCN:
    """Builds the network of MoCo's and BYOL's segmentation.

    Args:
        resnet: the network that was trained, of any depth and width.
        num_classes: K, the background among them.
        **switches: attributes of `DilatedFCN`.

    Raises:
        UserError: another normalisation than global batch normalisation.

    Example:
        >>> from jssl.models.resnet import make_resnet
        >>> net = make_dilated_fcn(make_resnet('resnet50'), 21)
        >>> net.encoder.last_dilation, net.stride()
        (2, 16)
    """
    if resnet.norm != "bn" or resnet.bn_groups != 1:
        raise UserError(
            "Segmentation needs a ResNet with model.norm='bn' and model.bn_groups=1, found "
            f"'{resnet.norm}' and {resnet.bn_groups}."
        )
    return DilatedFCN(resnet.clone(last_dilation=2), num_classes, **switches)


class FCN32s(PlainNet):
    """DeepCluster's AlexNet with its dense layers as convolutions, and logits of stride 32.

    Parameters have the names of the `PlainNet`, see `with_plain`.

    Attributes:
        num_classes: K, the background among them.
        normalize: statistics of the pictures, see `jssl.augment`: as in pre-training.
        cells: side of the map that `fc6` sees in pre-training.
        padding: of the first convolution, in pixels.
        frozen_norm: batch normalisation takes its running statistics in training too, so that the
            gradient of a batch is the mean of those of its pictures.
    """

    num_classes: int = 21
    normalize: str = "imagenet"
    cells: int = 6
    padding: int = _PAD
    frozen_norm: bool = False

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        images: Array,
        train: bool,
        rows: Array | None = None,
        sizes: Array | None = None,
    ) -> Array:
        """Pictures to logits.

        Args:
            images: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left.
            train: dropout, and batch statistics unless `frozen_norm`.
            rows: int32 [B], as of `PlainNet`.
            sizes: int32 [B,2], height and width of each picture; None: they fill the canvas.

        Returns:
            float32 [B,H,W,K].

        Raises:
            UserError: in training with dropout, without a key.
        """
        x = canvas_input(images, sizes, normalize_as=self.normalize, filtered=self.sobel)
        x = x.astype(self.dtype)
        moving = train and not self.frozen_norm
        for i, layer in enumerate(self.layers, start=1):
            layer = layer._replace(padding=self.padding) if i == 1 else layer
            x = nn.relu(self._norm(f"bn{i}")(self._conv(layer, f"conv{i}")(x), moving))
            x = _pool_to_the_end(x, self.pool) if layer.pooled else x
        key = self._dropout_key(train)
        for i, side in ((6, self.cells), (7, 1)):
            x = nn.relu(self._dense_conv(side, f"fc{i}")(x))
            if key is not None:
                numbers = row_numbers(rows, len(x), self.axis_name)
                x = dropout(jax.random.fold_in(key, i), x, rate=self.dropout, rows=numbers)
        x = Conv(
            self.num_classes,
            (1, 1),
            use_bias=True,
            kernel_init=nn.initializers.zeros,
            name="score",
        )(x)
        shape = (images.shape[1], images.shape[2])

        def deconvolve(x: Array) -> Array:
            return deconvolve_bilinear(x, shape, side=_SIDE, stride=_STRIDE, offset=_OFFSET)

        return jax.vmap(deconvolve)(x)

    def _dense_conv(self, side: int, name: str) -> Conv:
        return Conv(
            round(FC * self.width),
            (side, side),
            padding="VALID",
            use_bias=True,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name=name,
        )


def _pool_to_the_end(x: Array, side: int) -> Array:
    """Max-pool of stride 2 whose last window may reach over the end, as Caffe's."""
    ends = [(0, (size - side) % 2) for size in x.shape[1:3]]
    return nn.max_pool(x, (side, side), strides=(2, 2), padding=ends)


def make_fcn32s(net: PlainNet, num_classes: int, **switches: Any) -> FCN32s:
    """Builds the network of DeepCluster's segmentation on its AlexNet.

    Args:
        net: the network that was trained.
        num_classes: K, the background among them.
        **switches: attributes of `FCN32s`, `dropout` among them.

    Raises:
        UserError: another network than `make_alexnet`'s.

    Example:
        >>> from jssl.models.alexnet import make_alexnet
        >>> make_fcn32s(make_alexnet(), 21, dropout=0.5).padding
        100
    """
    if [(x.kernel, x.stride, x.pooled) for x in net.layers] != _ALEXNET or net.pool != 3:
        raise UserError("FCN-32s needs DeepCluster's AlexNet, model.name=alexnet; found another.")
    return FCN32s(**{**fields_of(net), "num_classes": num_classes, **switches})


def with_plain(variables: PyTree, plain: Mapping[str, PyTree]) -> PyTree:
    """Puts a pre-trained AlexNet or VGG-16 into an `FCN32s` or a `FastRCNN`.

    Args:
        variables: of the new network: `params` and `batch_stats`.
        plain: of the `PlainNet`, likewise; the dense kernels take the shapes in `variables`.

    Returns:
        `variables` with the network's; the last layers are the same.

    Raises:
        UserError: another network, or one that was trained at another size.
    """
    result = {}
    for kind, tree in variables.items():
        result[kind] = dict(tree)
        for module, leaves in tree.items():
            if module in _NEW:
                continue
            result[kind][module] = {}
            for leaf, value in leaves.items():
                given = plain[kind].get(module, {}).get(leaf)
                if given is None or given.size != value.size or len(given) == 0:
                    raise UserError(
                        f"The network does not fit: its '{kind}.{module}.{leaf}' "
                        f"has the shape {getattr(given, 'shape', 'of no array')}, expected the "
                        f"numbers of {value.shape}."
                    )
                # A dense layer reads rows, columns and channels in the order of a kernel.
                result[kind][module][leaf] = given.reshape(value.shape)
    return result


def segmentation_loss(
    net: DilatedFCN | FCN32s, variables: PyTree, batch: Batch, key: Array
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """Computes the mean cross entropy of the labelled pixels.

    Of an `FCN32s` it is the mean over pictures of the mean over the labelled pixels of each, so
    that a batch equals its pictures one after another with the mean of their gradients.

    Args:
        net: the network; its `axis_name` is the batch axis.
        variables: `params` and `batch_stats`.
        batch: of this device:
            image: [B,H,W,3], uint8, or float in [0, 1];
            label: int [B,H,W] in [0, K), or 255 where a pixel does not count;
            size: optional, as the network's `sizes`.
        key: typed PRNG key [] of the step, for dropout.

    Returns:
        loss: float32 []; its mean over devices is that of the global batch on one device.
        metrics: `pixel_accuracy`, likewise.
        batch_stats: updated.
    """
    is_dilated = isinstance(net, DilatedFCN)
    output: Any = net.apply(
        variables,
        batch["image"],
        True,
        sizes=batch.get("size"),
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    logits, changed = output
    axis_name = net.encoder.axis_name if is_dilated else net.axis_name
    totals, counts = jax.vmap(pixel_loss)(logits, batch["label"])
    count = jnp.maximum(pmean(jnp.sum(counts), axis_name), 1)
    each = jnp.mean(totals / jnp.maximum(counts, 1))
    loss = jnp.sum(totals) / count if is_dilated else each
    right = jnp.sum(jnp.argmax(logits, -1) == batch["label"], dtype=jnp.float32)
    return loss, ({"pixel_accuracy": right / count}, changed["batch_stats"])
