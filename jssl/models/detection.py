"""Losses and detections of a Faster R-CNN, with detectron2's numbers for PASCAL VOC."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.dense.matcher import sample
from jssl.dense.regions import Detected, Regions, detections, region_losses, sample_regions
from jssl.dense.rpn import Proposals, match_anchors, propose, rpn_losses
from jssl.models.rcnn import FasterRCNN
from jssl.parallel.collectives import global_index, pmean
from jssl.types import Array, Batch, PyTree


class TrainingNumbers(NamedTuple):
    """Numbers of a picture in training.

    Attributes:
        before, after: proposals before and after the suppression.
        anchors, positive_anchors: in the sample of the region proposal network.
        regions, positive_regions: in the sample of the head.
    """

    before: int = 12000
    after: int = 2000
    anchors: int = 256
    positive_anchors: int = 128
    regions: int = 512
    positive_regions: int = 128


class InferenceNumbers(NamedTuple):
    """Numbers of a picture in evaluation.

    Attributes:
        before, after: proposals before and after the suppression.
        min_score: detections have a higher probability.
        iou: the threshold of the suppression within each class.
        detections: of highest scores.
    """

    before: int = 6000
    after: int = 1000
    min_score: float = 0.05
    iou: float = 0.5
    detections: int = 100


def proposals_of(
    net: FasterRCNN,
    shape: tuple[int, int],
    logits: Array,
    deltas: Array,
    sizes: Array,
    *,
    before: int,
    after: int,
) -> Proposals:
    """Selects the proposals of each picture, [B,R,...].

    Args:
        net: the detector.
        shape: (h, w) of the maps.
        logits, deltas: of `FasterRCNN.rpn`.
        sizes: int32 [B,2], height and width of each picture, in pixels.
        before, after: as in `jssl.dense.propose`.
    """
    anchors, live = net.anchors(shape, sizes)

    def one(logits: Array, deltas: Array, live: Array, size: Array) -> Proposals:
        return propose(logits, deltas, anchors, live, size, before=before, after=after)

    return jax.vmap(one)(logits, deltas, live, sizes)


def detection_loss(
    net: FasterRCNN,
    variables: PyTree,
    batch: Batch,
    key: Array,
    *,
    numbers: TrainingNumbers = TrainingNumbers(),  # noqa: B008
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """Computes the loss of a Faster R-CNN, the sum of four.

    Args:
        net: the detector; its `axis_name` is the batch axis.
        variables: `params` and `batch_stats`.
        batch: of this device:
            image: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left;
            size: int32 [B,2], height and width of each picture, in pixels;
            boxes: float32 [B,M,4], (x1, y1, x2, y2) in pixels from 0;
            label: int32 [B,M] in [0, K);
            valid: bool [B,M], which objects are not padding.
        key: typed PRNG key [] of the step, equal on every device.
        numbers: of proposals and samples.

    Returns:
        loss: float32 []; its mean over devices is that of the global batch on one device.
        metrics: `rpn_objectness`, `rpn_box`, `class`, `box`, whose sum is the loss; `proposals`
            and `positive_regions`, of a picture on average.
        batch_stats: updated.

    Reference: https://arxiv.org/abs/1506.01497, equation 1; the normalisers are detectron2's.
    """
    params, sizes, axis_name = variables["params"], batch["size"], net.head.axis_name
    B = len(sizes)
    valid = batch["valid"] & jnp.all(batch["boxes"][..., 2:] > batch["boxes"][..., :2], axis=-1)
    numbers_of_pictures = global_index(B, axis_name) + jnp.arange(B)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(numbers_of_pictures)

    def apply(stats: PyTree, method: str, *args: Any) -> tuple[Any, PyTree]:
        both = {"params": params, "batch_stats": stats}
        output: Any = net.apply(both, *args, method=method, mutable=["batch_stats"])
        result, changed = output
        return result, changed["batch_stats"]

    features, stats = apply(variables["batch_stats"], "features", batch["image"], sizes, True)
    shape = features.shape[1:3]
    (logits, deltas), stats = apply(stats, "rpn", features)
    anchors, live = net.anchors(shape, sizes)

    def rpn(key: Array, logits: Array, deltas: Array, live: Array, boxes: Array, valid: Array):
        matches = match_anchors(anchors, live, boxes, valid)
        sampled = sample(key, matches, count=numbers.anchors, positives=numbers.positive_anchors)
        return rpn_losses(logits, deltas, anchors, boxes, matches, sampled)

    objectness, rpn_box = jax.vmap(rpn)(keys[:, 0], logits, deltas, live, batch["boxes"], valid)
    proposals = proposals_of(
        net, shape, logits, deltas, sizes, before=numbers.before, after=numbers.after
    )

    def draw(key: Array, proposals: Proposals, boxes: Array, labels: Array, valid: Array):
        return sample_regions(
            key,
            proposals.boxes,
            proposals.valid,
            boxes,
            labels,
            valid,
            num_classes=net.num_classes,
            count=numbers.regions,
            positives=numbers.positive_regions,
        )

    regions: Regions = jax.vmap(draw)(keys[:, 1], proposals, batch["boxes"], batch["label"], valid)
    (scores, moves), stats = apply(
        stats, "regions", features, regions.boxes, regions.valid, sizes, True
    )
    classification, box = jax.vmap(region_losses)(scores, moves, regions)

    sampled_regions = jnp.maximum(pmean(jnp.sum(regions.valid, dtype=jnp.float32), axis_name), 1)
    metrics = {
        "rpn_objectness": jnp.sum(objectness) / (numbers.anchors * B),
        "rpn_box": jnp.sum(rpn_box) / (numbers.anchors * B),
        "class": jnp.sum(classification) / sampled_regions,
        "box": jnp.sum(box) / sampled_regions,
    }
    loss = sum(metrics.values())
    metrics["proposals"] = jnp.sum(proposals.valid) / B
    metrics["positive_regions"] = jnp.sum(regions.labels < net.num_classes) / B
    return jnp.asarray(loss), (metrics, stats)


def detect(
    net: FasterRCNN,
    variables: PyTree,
    images: Array,
    sizes: Array,
    *,
    numbers: InferenceNumbers = InferenceNumbers(),  # noqa: B008
) -> Detected:
    """Detects objects.

    Args:
        net: the detector.
        variables: `params` and `batch_stats`.
        images: [B,H,W,3], uint8, or float in [0, 1], each picture at the upper left.
        sizes: int32 [B,2], height and width of each picture, in pixels.
        numbers: of proposals and detections.

    Returns:
        `Detected`, [B,D,...], in pixels of `images`.
    """

    def apply(method: str, *args: Any) -> Any:
        return net.apply(variables, *args, method=method)

    features = apply("features", images, sizes, False)
    logits, deltas = apply("rpn", features)
    proposals = proposals_of(
        net, features.shape[1:3], logits, deltas, sizes, before=numbers.before, after=numbers.after
    )
    scores, moves = apply("regions", features, proposals.boxes, proposals.valid, sizes, False)

    def one(logits: Array, deltas: Array, proposals: Proposals, size: Array) -> Detected:
        return detections(
            logits,
            deltas,
            proposals.boxes,
            proposals.valid,
            size,
            min_score=numbers.min_score,
            iou=numbers.iou,
            count=numbers.detections,
        )

    return jax.vmap(one)(scores, moves, proposals, sizes)
