"""Fast R-CNN on AlexNet or VGG-16 with given proposals, with which DeepCluster measures detection.

Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083; numbers of
https://github.com/rbgirshick/py-faster-rcnn. DeepCluster has not published how it changed them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.dense.regions import Detected, Regions, detections, region_losses, sample_regions
from jssl.dense.roi import roi_max_pool
from jssl.errors import UserError
from jssl.models.noise import dropout, row_numbers
from jssl.models.plain import PlainNet, canvas_input, fields_of
from jssl.parallel.collectives import global_index, pmean
from jssl.types import Array, Batch, PyTree

_BINS = {3: 6, 2: 7}  # side of the max-pool, of AlexNet and VGG -> bins of a region


class FastRCNN(PlainNet):
    """A `PlainNet` whose last pool takes regions, with classes and boxes for each.

    Parameters have the names and shapes of the `PlainNet`, see `jssl.models.fcn.with_plain`;
    `cls_score` and `bbox_pred` are new.

    Attributes:
        num_classes: K, without the background.
        normalize: statistics of the pictures, see `jssl.augment`: as in pre-training.
        stride: of the last convolution.
        frozen_norm: batch normalisation takes its running statistics in training too: a step has
            two pictures.
    """

    num_classes: int = 20
    normalize: str = "imagenet"
    stride: int = 16
    frozen_norm: bool = True

    @nn.compact
    def __call__(  # type: ignore[override]
        self, images: Array, boxes: Array, train: bool, sizes: Array | None = None
    ) -> tuple[Array, Array]:
        """Regions to classes and boxes.

        Args:
            images: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left.
            boxes: float32 [B,R,4], inside the pictures; without a gradient.
            train: dropout, and batch statistics unless `frozen_norm`.
            sizes: int32 [B,2], height and width of each picture; None: they fill the canvas.

        Returns:
            float32 [B,R,K+1], logits with the background LAST; and [B,R,K,4], deltas of each class
            with the weights `jssl.dense.boxes.HEAD`.

        Raises:
            UserError: in training with dropout, without a key.
        """
        x = canvas_input(images, sizes, normalize_as=self.normalize, filtered=self.sobel)
        x = x.astype(self.dtype)
        for i, layer in enumerate(self.layers, start=1):
            x = self._norm(f"bn{i}")(
                self._conv(layer, f"conv{i}")(x), train and not self.frozen_norm
            )
            x = nn.relu(x)
            if layer.pooled and i < len(self.layers):
                x = nn.max_pool(x, (self.pool, self.pool), strides=(2, 2))
        boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))

        def pool(x: Array, boxes: Array) -> Array:
            return roi_max_pool(x, boxes, output=_BINS[self.pool], scale=1 / self.stride)

        x = jax.vmap(pool)(x, boxes)
        x = x.reshape(x.shape[0] * x.shape[1], -1)
        key = self._dropout_key(train)
        for i in (6, 7):
            x = nn.relu(self._dense(f"fc{i}")(x))
            if key is not None:
                rows = row_numbers(None, len(x), self.axis_name)
                x = dropout(jax.random.fold_in(key, i), x, rate=self.dropout, rows=rows)
        x = x.astype(jnp.float32)
        normal = nn.initializers.normal
        logits = nn.Dense(self.num_classes + 1, kernel_init=normal(0.01), name="cls_score")(x)
        deltas = nn.Dense(4 * self.num_classes, kernel_init=normal(0.001), name="bbox_pred")(x)
        shape = boxes.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, self.num_classes, 4)


def make_fast_rcnn(net: PlainNet, num_classes: int, **switches: Any) -> FastRCNN:
    """Builds a Fast R-CNN on DeepCluster's AlexNet or VGG-16.

    Args:
        net: the network that was trained.
        num_classes: K, without the background.
        **switches: attributes of `FastRCNN`, `dropout` among them.

    Raises:
        UserError: another network.

    Example:
        >>> from jssl.models.vgg import make_vgg16
        >>> make_fast_rcnn(make_vgg16(), 20, dropout=0.5).stride
        16
    """
    stride = 1
    for layer in net.layers[:-1]:
        stride *= layer.stride * (2 if layer.pooled else 1)
    if net.pool not in _BINS or stride != 16:
        raise UserError(
            "Fast R-CNN needs model.name=alexnet or vgg16, of stride 16 with a 3x3 or 2x2 pool; "
            f"found stride {stride} and a {net.pool}x{net.pool} pool."
        )
    return FastRCNN(**{**fields_of(net), "num_classes": num_classes, **switches})


def fast_rcnn_loss(
    net: FastRCNN,
    variables: PyTree,
    batch: Batch,
    key: Array,
    *,
    count: int = 64,
    positives: int = 16,
    low: float = 0.1,
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """Computes the loss of a Fast R-CNN: cross entropy and smooth L1, per sampled region.

    Args:
        net: the detector; its `axis_name` is the batch axis.
        variables: `params` and `batch_stats`.
        batch: of this device:
            image, boxes, label, valid: as of `jssl.models.detection.detection_loss`;
            size: optional, as the network's `sizes`;
            proposals: float32 [B,P,4], inside the pictures;
            live: bool [B,P], which proposals are not padding.
        key: typed PRNG key [] of the step, equal on every device.
        count, positives: regions of a picture, and at most how many of an object.
        low: overlap with an object that a region of the background has at least.

    Returns:
        loss: float32 []; its mean over devices is that of the global batch on one device.
        metrics: `class` and `box`, whose sum is the loss; `positive_regions`, of a picture.
        batch_stats: updated.
    """
    axis_name, B = net.axis_name, len(batch["image"])
    valid = batch["valid"] & jnp.all(batch["boxes"][..., 2:] > batch["boxes"][..., :2], axis=-1)
    draws, drops = jax.random.split(key)
    numbers = global_index(B, axis_name) + jnp.arange(B)

    def draw(i: Array, proposals: Array, live: Array, boxes: Array, labels: Array, valid: Array):
        return sample_regions(
            jax.random.fold_in(draws, i),
            proposals,
            live,
            boxes,
            labels,
            valid,
            num_classes=net.num_classes,
            count=count,
            positives=positives,
            low=low,
        )

    regions: Regions = jax.vmap(draw)(
        numbers, batch["proposals"], batch["live"], batch["boxes"], batch["label"], valid
    )
    output: Any = net.apply(
        variables,
        batch["image"],
        regions.boxes,
        True,
        batch.get("size"),
        mutable=["batch_stats"],
        rngs={"dropout": drops},
    )
    (logits, deltas), changed = output
    losses = jax.vmap(lambda *args: region_losses(*args, beta=1.0))(logits, deltas, regions)
    total = jnp.maximum(pmean(jnp.sum(regions.valid, dtype=jnp.float32), axis_name), 1)
    classification, box = (jnp.sum(x) / total for x in losses)
    metrics = {
        "class": classification,
        "box": box,
        "positive_regions": jnp.sum(regions.labels < net.num_classes) / B,
    }
    return classification + box, (metrics, changed["batch_stats"])


def detect_in(
    net: FastRCNN,
    variables: PyTree,
    images: Array,
    sizes: Array,
    proposals: Array,
    live: Array,
    *,
    min_score: float = 0.05,
    iou: float = 0.3,
    count: int = 100,
) -> Detected:
    """Detects objects in given proposals.

    Args:
        net: the detector.
        variables: `params` and `batch_stats`.
        images: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left.
        sizes: int32 [B,2], height and width of each picture, in pixels.
        proposals: float32 [B,P,4], inside the pictures.
        live: bool [B,P], which proposals are not padding.
        min_score, iou, count: as of `jssl.dense.detections`.

    Returns:
        `Detected`, [B,D,...], in pixels of `images`.
    """
    output: Any = net.apply(variables, images, proposals, False, sizes)
    logits, deltas = output

    def one(logits: Array, deltas: Array, boxes: Array, live: Array, size: Array) -> Detected:
        return detections(
            logits, deltas, boxes, live, size, min_score=min_score, iou=iou, count=count
        )

    return jax.vmap(one)(logits, deltas, proposals, live, sizes)
