"""Faster R-CNN on a ResNet, "R50-C4", with which MoCo measures detection.

Ren et al., NeurIPS 2015, https://arxiv.org/abs/1506.01497; He et al., CVPR 2020 (MoCo),
https://arxiv.org/abs/1911.05722, appendix A. Of a picture,

    maps       = the groups of the network but the last
    proposals  = the best anchors, moved, suppressed at an overlap of 0.7         no gradient
    regions    = 512 of proposals and objects, of which 128 overlap an object by half
    scores, boxes = the last group, one more batch normalisation, mean, two dense layers
    loss       = BCE(anchors) + L1(anchors) + CE(regions) + L1(regions)

`config.init_from` names the pre-trained network. Its names stay: `encoder` is the whole ResNet.
Batches have pictures on a canvas of `augment.size`, with their boxes; see `jssl.data.dense_build`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.dense.regions import Detected
from jssl.errors import UserError
from jssl.methods._common import apply_gradients, check_make, first_state, in_32_bits
from jssl.methods._dense import dense_embed, dense_views, detection_fields, unchanged_part
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.detection import InferenceNumbers, TrainingNumbers, detect, detection_loss
from jssl.models.rcnn import FasterRCNN, make_faster_rcnn
from jssl.models.resnet import ResNet
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.settings import (
    COUNT,
    POSITIVE,
    Setting,
    below_one,
    count,
    each,
    flag,
    natural,
)
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # 0: as many as the data set has
    "sides": Setting(tuple(range(480, 801, 32)), each(COUNT, least=1)),  # shorter, one at random
    "test_side": count(800),
    "anchor_sizes": Setting((32.0, 64.0, 128.0, 256.0, 512.0), each(POSITIVE, least=1)),
    "anchor_ratios": Setting((0.5, 1.0, 2.0), each(POSITIVE, least=1)),  # height / width
    "anchors": count(256),  # sampled in a picture; at most half are positive
    "before": count(12000),  # proposals before and after the suppression
    "after": count(2000),
    "regions": count(512),  # sampled in a picture; at most a quarter are positive
    "test_before": count(6000),
    "test_after": count(1000),
    "min_score": below_one(0.05),
    "detections": count(100),
    "frozen_trunk": flag(False),  # all groups but the last are not trained (BYOL's table)
    "remat": flag(False),  # compute the last group again in the backward pass
    "precise_batches": natural(200),  # that estimate the running statistics before evaluation
}


def make_net(config: Any, axis_name: str | None, **switches: Any) -> FasterRCNN:
    """Builds the detector of a config; `switches` are of the ResNet."""
    s, encoder = (
        config.faster_rcnn,
        models.build(config.model, axis_name=axis_name, dtype=jnp.dtype(config.dtype)),
    )
    if not isinstance(encoder, ResNet):
        raise UserError(
            f"Faster R-CNN needs a ResNet, found model.name='{config.model.name}'. Type "
            "--config.model.name=resnet50, or method fast_rcnn for AlexNet and VGG-16."
        )
    return make_faster_rcnn(
        encoder.clone(**switches),
        s.num_classes,
        remat=s.remat,
        sizes=tuple(s.anchor_sizes),
        ratios=tuple(s.anchor_ratios),
        normalize=augment.statistics_of(config.augment),
        frozen_trunk=s.frozen_trunk,
    )


def _in_parts(net: FasterRCNN, tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """{'encoder', ...} -> {'trunk', 'head', ...}: the ResNet's last group is the head."""
    last = f"block_group{net.head.groups[0]}_"
    rest = {name: value for name, value in tree.items() if name != "encoder"}
    encoder = tree["encoder"]
    head = {name: value for name, value in encoder.items() if name.startswith(last)}
    trunk = {name: value for name, value in encoder.items() if not name.startswith(last)}
    return {"trunk": trunk, "head": head, **rest}


def _whole(tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The inverse of `_in_parts`."""
    rest = {name: value for name, value in tree.items() if name not in ("trunk", "head")}
    return {"encoder": {**tree["trunk"], **tree["head"]}, **rest}


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of Faster R-CNN.

    Args:
        config: from `jssl.config.base('faster_rcnn', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` and its four parts `rpn_objectness`, `rpn_box`, `class` and
        `box`; `proposals` and `positive_regions` of a picture; and `grad_norm`. `predict` returns
        `jssl.dense.Detected`.
    """
    check_make("faster_rcnn", config, lengths, SETTINGS)
    s, net = config.faster_rcnn, make_net(config, axis_name)
    training = TrainingNumbers(
        s.before, s.after, s.anchors, s.anchors // 2, s.regions, s.regions // 4
    )
    inference = InferenceNumbers(s.test_before, s.test_after, s.min_score, detections=s.detections)
    if s.frozen_trunk:  # without a gradient the weight decay alone would move it
        tx = unchanged_part(tx, f"^encoder/(?!block_group{net.head.groups[0]}_)")

    def variables_of(params: PyTree, batch_stats: PyTree) -> dict[str, PyTree]:
        return {"params": _in_parts(net, params), "batch_stats": _in_parts(net, batch_stats)}

    def init(key: Array, batch: Batch) -> State:
        first = make_net(config, None).init(key, batch["image"], batch["size"], train=True)
        return first_state(State, key, {k: _whole(tree) for k, tree in first.items()}, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params: PyTree):
            variables = variables_of(params, state.batch_stats)
            loss, (parts, stats) = detection_loss(net, variables, batch, key, numbers=training)
            return loss, (parts, _whole(stats))

        (loss, (parts, stats)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {"loss": loss, **{k: pmean(v, axis_name) for k, v in parts.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return apply_gradients(state, grads, stats, tx), metrics

    def predict(state: State, batch: Batch) -> Detected:
        variables = variables_of(state.params, state.batch_stats)
        return detect(net, variables, batch["image"], batch["size"], numbers=inference)

    alone = make_net(config, None, bn_momentum=0.0)  # keeps nothing of the earlier statistics

    def statistics(state: State, batch: Batch) -> PyTree:
        key, variables = jax.random.key(0), variables_of(state.params, state.batch_stats)
        _, (_, stats) = detection_loss(alone, variables, batch, key, numbers=training)
        return _whole(stats)

    return Method(
        init,
        train_step,
        dense_embed(config),
        dense_views,
        predict=predict,
        statistics=statistics,
    )


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    data=DataHooks(dense="boxes", dense_fields=detection_fields),
    colours="boxes and masks are of pictures in colour",
)
