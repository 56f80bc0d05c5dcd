"""Faster R-CNN on a residual network, "R50-C4", with which MoCo measures detection.

Ren et al., NeurIPS 2015, https://arxiv.org/abs/1506.01497; He et al., CVPR 2020 (MoCo),
https://arxiv.org/abs/1911.05722, appendix A; official code
https://github.com/facebookresearch/moco, detection/ (removed since), on
https://github.com/facebookresearch/detectron2.

All groups of the network but the last are the trunk, and the last is the head of each region.
Padding changes nothing, except for rounding: detectron2 leaves it in the statistics of a batch.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.augment._pixels import normalize, to_float
from jssl.dense.anchors import RATIOS, SIZES, cell_anchors, grid_anchors
from jssl.dense.roi import roi_align
from jssl.dense.rpn import live_anchors
from jssl.errors import UserError
from jssl.models.conv import Conv
from jssl.models.norm import BatchNorm
from jssl.models.padding import inside, padded, rows, without_padding
from jssl.models.resnet import ResNet
from jssl.types import Array, PyTree


class RPNHead(nn.Module):
    """A region proposal network: a 3x3 convolution, then a logit and four deltas for each anchor.

    Attributes:
        anchors: A, of a cell.
        dtype: of the 3x3 convolution; logits and deltas are float32.
    """

    anchors: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B,h,w,C] -> float32 [B,h w A] and [B,h w A,4], in the order of `grid_anchors`."""

        def conv(features: int, size: int, dtype: Any, name: str) -> Conv:
            return Conv(
                features,
                (size, size),
                use_bias=True,
                kernel_init=nn.initializers.normal(0.01),
                dtype=dtype,
                name=name,
            )

        x = nn.relu(conv(x.shape[-1], 3, self.dtype, "conv")(x))
        logits = conv(self.anchors, 1, jnp.float32, "logits")(x)
        deltas = conv(4 * self.anchors, 1, jnp.float32, "deltas")(x)
        return logits.reshape(len(x), -1), deltas.reshape(len(x), -1, 4)


class FasterRCNN(nn.Module):
    """Faster R-CNN whose parts are called one by one: `features`, `rpn` and `regions`.

    `jssl.models.detection` has its losses and its detections.

    Attributes:
        trunk: the groups of a `ResNet` but the last.
        head: the last group.
        num_classes: K, without the background.
        stride: of the trunk.
        sizes, ratios: of the anchors, see `cell_anchors`.
        bins: of a side of a region, halved in the head.
        normalize: statistics of the pictures, see `jssl.augment`: as in pre-training.
        frozen_trunk: the trunk is not trained and takes its running statistics (BYOL's table).
    """

    trunk: ResNet
    head: ResNet
    num_classes: int
    stride: int = 16
    sizes: tuple[float, ...] = SIZES
    ratios: tuple[float, ...] = RATIOS
    bins: int = 14
    normalize: str = "imagenet"
    frozen_trunk: bool = False

    def setup(self):
        net = self.head
        self.rpn_head = RPNHead(len(self.sizes) * len(self.ratios), dtype=net.dtype)
        self.head_norm = BatchNorm(
            axis_name=net.axis_name,
            momentum=net.bn_momentum,
            epsilon=net.bn_epsilon,
            unbiased_running_var=net.bn_unbiased_running_var,
            dtype=net.dtype,
        )
        self.cls_score = nn.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))
        self.bbox_pred = nn.Dense(4 * self.num_classes, kernel_init=nn.initializers.normal(0.001))

    def __call__(self, images: Array, sizes: Array, train: bool = False) -> tuple[Array, ...]:
        """Runs every part once, with one region for each picture: for `init`."""
        x = self.features(images, sizes, train)
        boxes = jnp.concatenate([jnp.zeros_like(sizes), sizes[:, ::-1]], axis=1)[:, None]
        valid = jnp.ones(boxes.shape[:2], bool)
        return (*self.rpn(x), *self.regions(x, boxes.astype(jnp.float32), valid, sizes, train))

    def features(self, images: Array, sizes: Array, train: bool) -> Array:
        """Pictures to maps.

        Args:
            images: [B,H,W,3], uint8, or float in [0, 1]; each picture at the upper left.
            sizes: int32 [B,2], height and width of each picture, in pixels.
            train: batch statistics instead of running ones.

        Returns:
            [B,h,w,C] in the trunk's dtype, 0 in the padding.
        """
        x = normalize(to_float(images), self.normalize)
        with padded(inside(sizes, (images.shape[1], images.shape[2]))):
            # Zeros AFTER the normalisation.
            _, named = self.trunk(without_padding(x), train and not self.frozen_trunk)
        x = named[f"block_group{self.trunk.groups[-1]}"]
        return jax.lax.stop_gradient(x) if self.frozen_trunk else x

    def rpn(self, features: Array) -> tuple[Array, Array]:
        """Maps [B,h,w,C] to logits float32 [B,N] and deltas float32 [B,N,4] of the anchors."""
        return self.rpn_head(features)

    def anchors(self, shape: tuple[int, int], sizes: Array) -> tuple[Array, Array]:
        """The anchors of a map, and which of them are no padding.

        Args:
            shape: (h, w) of the map.
            sizes: int32 [B,2], as in `features`.

        Returns:
            float32 [N,4] and bool [B,N].
        """
        cell = cell_anchors(self.sizes, self.ratios)
        live = jax.vmap(lambda size: live_anchors(*shape, self.stride, size, len(cell)))(sizes)
        return grid_anchors(*shape, self.stride, cell), live

    def regions(
        self, features: Array, boxes: Array, valid: Array, sizes: Array, train: bool
    ) -> tuple[Array, Array]:
        """Regions to classes and boxes.

        Args:
            features: [B,h,w,C], from `features`.
            boxes: float32 [B,R,4], inside the pictures; without a gradient.
            valid: bool [B,R], which are no padding.
            sizes: int32 [B,2], as in `features`.
            train: batch statistics instead of running ones.

        Returns:
            float32 [B,R,K+1], logits with the background LAST; and [B,R,K,4], deltas of each class
            with the weights `jssl.dense.boxes.HEAD`.
        """
        boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
        extents = -(-sizes // self.stride)

        def align(features: Array, boxes: Array, extent: Array) -> Array:
            return roi_align(
                features, boxes, output=self.bins, scale=1 / self.stride, extent=extent
            )

        x = jax.vmap(align)(features, boxes, extents)
        x = x.reshape(-1, *x.shape[2:])
        with padded(rows(valid.ravel())):
            _, named = self.head(x, train)
            x = self.head_norm(named[f"block_group{self.head.groups[-1]}"], train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        shape = boxes.shape[:2]
        deltas = self.bbox_pred(x).reshape(*shape, self.num_classes, 4)
        return self.cls_score(x).reshape(*shape, -1), deltas


def make_faster_rcnn(
    resnet: ResNet, num_classes: int, *, remat: bool = False, **switches: Any
) -> FasterRCNN:
    """Builds a Faster R-CNN on a residual network.

    Args:
        resnet: the whole network, of two groups or more, with global batch normalisation.
        num_classes: K, without the background.
        remat: compute the blocks of the head again in the backward pass instead of storing them;
            `ResNet.remat` does so in the trunk too.
        **switches: attributes of `FasterRCNN`.

    Raises:
        UserError: another normalisation, or a dilated or too short network.

    Example:
        >>> from jssl.models.resnet import make_resnet
        >>> net = make_faster_rcnn(make_resnet('resnet50'), 20)
        >>> net.trunk.groups, net.head.groups, net.stride
        ((1, 2, 3), (4,), 16)
    """
    last = len(resnet.blocks)
    for is_right, expected in (
        (resnet.norm == "bn", f"model.norm='bn', found '{resnet.norm}'"),
        (resnet.bn_groups == 1, f"model.bn_groups=1, found {resnet.bn_groups}"),
        (last > 1, f"two groups of blocks at least, found {last}"),
        (resnet.last_dilation == 1, f"last_dilation=1, found {resnet.last_dilation}"),
        (not resnet.groups, f"a whole network, found its groups {resnet.groups}"),
    ):
        if not is_right:
            raise UserError(f"Faster R-CNN needs a ResNet with {expected}.")
    stride = (4 if resnet.stem == "imagenet" else 1) * 2 ** (last - 2)
    trunk = resnet.clone(groups=tuple(range(1, last)))
    head = resnet.clone(groups=(last,), remat=remat or resnet.remat)
    return FasterRCNN(trunk, head, num_classes, stride=stride, **switches)


def with_resnet(variables: PyTree, resnet: Mapping[str, PyTree]) -> PyTree:
    """Puts a pre-trained residual network into a detector.

    Args:
        variables: of a `FasterRCNN`: `params` and `batch_stats`.
        resnet: of a `ResNet`, likewise.

    Returns:
        `variables` with the network's in `trunk` and `head`; the other leaves are the same.

    Raises:
        UserError: another network.

    Example:
        >>> own = {'params': {'trunk': {'conv_init': jnp.zeros(2)},
        ...                   'head': {'block_group4_block0_conv0': jnp.zeros(1)}, 'rpn': 0},
        ...        'batch_stats': {'trunk': {}, 'head': {}}}
        >>> whole = {'params': {'conv_init': jnp.ones(2), 'block_group4_block0_conv0': jnp.ones(1)},
        ...          'batch_stats': {}}
        >>> print(with_resnet(own, whole)['params']['trunk'])
        {'conv_init': Array([1., 1.], dtype=float32)}
    """
    expected = _shapes(resnet_of(variables))
    shapes = _shapes({kind: resnet[kind] for kind in ("params", "batch_stats")})
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise UserError(
                f"The network does not fit the detector: its '{name}' has the shape "
                f"{shapes.get(name, 'of no array')}, expected {expected.get(name, 'none')}. Build "
                "the detector on the network that was trained."
            )
    result = {}
    for kind, tree in variables.items():
        parts = {part: {k: resnet[kind][k] for k in tree[part]} for part in ("trunk", "head")}
        result[kind] = {**tree, **parts}
    return result


def resnet_of(variables: PyTree) -> dict[str, PyTree]:
    """Returns the variables of a detector's residual network; `with_resnet` is the inverse.

    Args:
        variables: of a `FasterRCNN`: `params` and `batch_stats`.

    Returns:
        `params` and `batch_stats` of the whole `ResNet`.
    """
    return {
        kind: {**variables[kind]["trunk"], **variables[kind]["head"]}
        for kind in ("params", "batch_stats")
    }


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in flat}
