"""Fast R-CNN on AlexNet or VGG-16, with which DeepCluster measures detection.

Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083, with the numbers of
https://github.com/rbgirshick/py-faster-rcnn. How DeepCluster changed them was never published. Of a
picture with given proposals,

    map     = the convolutions of the network, with their running statistics
    regions = 64 of proposals and objects: 16 that overlap an object by half, others by 0.1 to 0.5
    scores, boxes = the dense layers of the network on the maxima of each region, two new ones
    loss    = CE(regions) + smooth L1(regions)

As there, the first convolutions are not trained: one of AlexNet, four of VGG-16. `config.init_from`
names the pre-trained network, whose names stay: `encoder` is the whole of it. Proposals are those
of files, such as selective search, or all anchor boxes; see `jssl.data.proposals`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.dense.regions import Detected
from jssl.errors import UserError
from jssl.methods._common import apply_gradients, check_make, first_state, in_32_bits
from jssl.methods._dense import (
    BIAS,
    CONVOLUTIONS,
    PLAIN_SIDE,
    dense_embed,
    dense_views,
    in_encoder,
    out_of_encoder,
    proposal_fields,
    unchanged_part,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.fast_rcnn import FastRCNN, detect_in, fast_rcnn_loss, make_fast_rcnn
from jssl.models.plain import PlainNet
from jssl.optim import scale_by_name
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.settings import (
    COUNT,
    POSITIVE,
    Setting,
    below_one,
    choice,
    count,
    each,
    flag,
    fraction,
    natural,
    text,
)
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # 0: as many as the data set has
    "proposals": text(""),  # a file of boxes or a folder of such files; or 'anchors'
    "max_proposals": count(5000),  # of a picture, in files
    "anchor_sizes": Setting((32.0, 64.0, 128.0, 256.0, 512.0), each(POSITIVE, least=1)),
    "anchor_ratios": Setting((0.5, 1.0, 2.0), each(POSITIVE, least=1)),  # height / width
    "anchor_stride": count(16),  # pixels
    "trained": choice("all", "fc6-8"),  # fc6-8: the dense layers alone
    "difficult": flag(False),  # objects that VOC calls difficult are trained on
    "sides": Setting((600,), each(COUNT, least=1)),  # shorter, one at random
    "test_side": count(600),
    "regions": count(64),  # sampled in a picture; at most a quarter are positive
    "background": below_one(0.1),  # overlap that a region of the background has at least
    "min_score": below_one(0.05),
    "suppression": fraction(0.3),  # detections of a class do not overlap more
    "detections": count(100),
}
_FIXED = {3: "1", 2: "[1-4]"}  # side of the max-pool, of AlexNet and VGG -> convolutions


def make_net(config: Any, axis_name: str | None) -> FastRCNN:
    """Builds the detector of a config."""
    dtype = jnp.dtype(config.dtype)
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    if not isinstance(encoder, PlainNet):
        raise UserError(
            f"Fast R-CNN needs AlexNet or VGG-16, found model.name='{config.model.name}'. Type "
            "--config.model.name=alexnet, or method faster_rcnn for a ResNet."
        )
    statistics = augment.statistics_of(config.augment)
    return make_fast_rcnn(encoder, config.fast_rcnn.num_classes, normalize=statistics)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of Fast R-CNN.

    Args:
        config: from `jssl.config.base('fast_rcnn', preset=...)`.
        tx: the optimiser; biases get twice its rate.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` and its parts `class` and `box`; `positive_regions` of a
        picture; and `grad_norm`. `predict` returns `jssl.dense.Detected`.
    """
    check_make("fast_rcnn", config, lengths, SETTINGS)
    s, net = config.fast_rcnn, make_net(config, axis_name)
    fixed = CONVOLUTIONS if s.trained == "fc6-8" else f"^encoder/(conv|bn){_FIXED[net.pool]}/"
    tx = unchanged_part(optax.chain(tx, scale_by_name(BIAS, factor=2.0)), fixed)

    def variables_of(params: PyTree, batch_stats: PyTree) -> dict[str, PyTree]:
        return {"params": out_of_encoder(params), "batch_stats": out_of_encoder(batch_stats)}

    def init(key: Array, batch: Batch) -> State:
        regions = batch["proposals"][:, :1]
        first = make_net(config, None).init(key, batch["image"], regions, True, batch["size"])
        return first_state(State, key, {k: in_encoder(tree) for k, tree in first.items()}, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params: PyTree):
            loss, (parts, stats) = fast_rcnn_loss(
                net,
                variables_of(params, state.batch_stats),
                batch,
                key,
                count=s.regions,
                positives=s.regions // 4,
                low=s.background,
            )
            return loss, (parts, in_encoder(stats))

        (loss, (parts, stats)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {"loss": loss, **{k: pmean(v, axis_name) for k, v in parts.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return apply_gradients(state, grads, stats, tx), metrics

    def predict(state: State, batch: Batch) -> Detected:
        return detect_in(
            net,
            variables_of(state.params, state.batch_stats),
            batch["image"],
            batch["size"],
            batch["proposals"],
            batch["live"],
            min_score=s.min_score,
            iou=s.suppression,
            count=s.detections,
        )

    embed = dense_embed(config, side=PLAIN_SIDE)
    return Method(init, train_step, embed, dense_views, predict=predict)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    data=DataHooks(dense="boxes", dense_fields=proposal_fields),
    colours="boxes and masks are of pictures in colour",
)
