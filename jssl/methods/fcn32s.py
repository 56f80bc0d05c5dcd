"""FCN-32s on AlexNet, with which DeepCluster measures segmentation.

Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038; numbers of
https://github.com/shelhamer/fcn.berkeleyvision.org, voc-fcn-alexnet: whole pictures, no
augmentation. How DeepCluster changed them was never published. Of a picture,

    map    = the network, its dense layers as convolutions, with its running statistics
    logits = one 1x1 convolution, deconvolved by a fixed bilinear kernel of stride 32
    loss   = mean over labelled pixels of the cross entropy

The official code takes one picture a step and averages the gradients of 20. A batch of 20 has the
same gradient: the running statistics are fixed, and the loss is the mean over pictures of each
one's mean. `config.init_from` names the pre-trained network, whose names stay: `encoder` is the
whole of it. Pictures are on a canvas of `augment.size`; see `jssl.data.dense_build`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.errors import UserError
from jssl.methods._common import apply_gradients, check_make, first_state, in_32_bits
from jssl.methods._dense import (
    CONVOLUTIONS,
    PLAIN_SIDE,
    dense_embed,
    dense_views,
    in_encoder,
    mask_fields,
    out_of_encoder,
    unchanged_part,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.fcn import FCN32s, make_fcn32s, segmentation_loss
from jssl.models.plain import PlainNet
from jssl.optim import scale_by_name
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.settings import Setting, choice, natural
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # without the background; 0: as many as the data set has
    "trained": choice("all", "fc6-8"),  # fc6-8: the dense layers alone
}


def make_net(config: Any, axis_name: str | None) -> FCN32s:
    """Builds the network of a config; class 0 is the background."""
    dtype = jnp.dtype(config.dtype)
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    if not isinstance(encoder, PlainNet) or config.model.name != "alexnet":
        raise UserError(
            f"FCN-32s needs AlexNet, found model.name='{config.model.name}'. Type "
            "--config.model.name=alexnet, or method fcn for a ResNet."
        )
    statistics, classes = augment.statistics_of(config.augment), config.fcn32s.num_classes + 1
    return make_fcn32s(encoder, classes, normalize=statistics, frozen_norm=True)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of FCN-32s.

    Args:
        config: from `jssl.config.base('fcn32s', preset=...)`.
        tx: the optimiser; the last bias gets twice its rate.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (nats), `pixel_accuracy` in [0, 1] and `grad_norm`.
        `predict` returns the class of each pixel, int32 [B,H,W]; 0 is the background.
    """
    check_make("fcn32s", config, lengths, SETTINGS)
    net = make_net(config, axis_name)
    tx = optax.chain(tx, scale_by_name("^score/bias$", factor=2.0))
    if config.fcn32s.trained == "fc6-8":
        tx = unchanged_part(tx, CONVOLUTIONS)

    def variables_of(params: PyTree, batch_stats: PyTree) -> dict[str, PyTree]:
        whole = out_of_encoder(params, cells=net.cells)
        return {"params": whole, "batch_stats": out_of_encoder(batch_stats)}

    def init(key: Array, batch: Batch) -> State:
        first = make_net(config, None).init(key, batch["image"], True, sizes=batch["size"])
        return first_state(State, key, {k: in_encoder(tree) for k, tree in first.items()}, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params: PyTree):
            variables = variables_of(params, state.batch_stats)
            loss, (parts, stats) = segmentation_loss(net, variables, batch, key)
            return loss, (parts, in_encoder(stats))

        (loss, (parts, stats)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {"loss": loss, **{k: pmean(v, axis_name) for k, v in parts.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return apply_gradients(state, grads, stats, tx), metrics

    def predict(state: State, batch: Batch) -> Array:
        variables = variables_of(state.params, state.batch_stats)
        output: Any = net.apply(variables, batch["image"], False, sizes=batch["size"])
        return jnp.argmax(output, axis=-1)

    embed = dense_embed(config, side=PLAIN_SIDE)
    return Method(init, train_step, embed, dense_views, predict=predict)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    data=DataHooks(dense="masks", dense_fields=mask_fields),
    colours="boxes and masks are of pictures in colour",
)
