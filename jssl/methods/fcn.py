"""A dilated fully convolutional network on a ResNet, with which MoCo and BYOL measure segmentation.

Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038; He et al., CVPR 2020 (MoCo),
https://arxiv.org/abs/1911.05722, appendix A.5; Grill et al., NeurIPS 2020 (BYOL),
https://arxiv.org/abs/2006.07733, appendix D.4. Of a picture,

    maps   = the network, its last group with dilation 2 in place of stride 2
    logits = two 3x3 convolutions of dilation 6 with batch normalisation, one 1x1, resized
    loss   = mean over labelled pixels of the cross entropy

`config.init_from` names the pre-trained network, whose names stay (`encoder`). Batches have crops
of `augment.size` with the class of each pixel; see `jssl.data.dense_build`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.errors import UserError
from jssl.methods._common import apply_gradients, check_make, first_state, in_32_bits
from jssl.methods._dense import dense_embed, dense_views, mask_fields
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.fcn import DilatedFCN, make_dilated_fcn, segmentation_loss
from jssl.models.resnet import ResNet
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.settings import POSITIVE, Setting, count, each, natural
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # without the background; 0: as many as the data set has
    "scales": Setting((0.5, 2.0), each(POSITIVE, count=2)),  # of a picture, before its crop
    "test_size": natural(0),  # side of the square that holds a whole test picture; 0: the crop's
    "features": count(256),  # of the two convolutions
    "dilation": count(6),
}


def make_net(config: Any, axis_name: str | None) -> DilatedFCN:
    """Builds the network of a config; class 0 is the background."""
    s, dtype = config.fcn, jnp.dtype(config.dtype)
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    if not isinstance(encoder, ResNet):
        raise UserError(
            f"Segmentation needs a ResNet, found model.name='{config.model.name}'. Type "
            "--config.model.name=resnet50, or method fcn32s for AlexNet."
        )
    return make_dilated_fcn(
        encoder,
        s.num_classes + 1,
        features=s.features,
        dilation=s.dilation,
        normalize=augment.statistics_of(config.augment),
    )


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of a segmentation network.

    Args:
        config: from `jssl.config.base('fcn', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (nats), `pixel_accuracy` in [0, 1] and `grad_norm`.
        `predict` returns the class of each pixel, int32 [B,H,W]; 0 is the background.
    """
    check_make("fcn", config, lengths, SETTINGS)
    net = make_net(config, axis_name)

    def init(key: Array, batch: Batch) -> State:
        first = make_net(config, None).init(key, batch["image"], True, batch["size"])
        return first_state(State, key, first, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params: PyTree):
            variables = {"params": params, "batch_stats": state.batch_stats}
            loss, (parts, stats) = segmentation_loss(net, variables, batch, key)
            return loss, (parts, stats)

        (loss, (parts, stats)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {"loss": loss, **{k: pmean(v, axis_name) for k, v in parts.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return apply_gradients(state, grads, stats, tx), metrics

    def predict(state: State, batch: Batch) -> Array:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        output: Any = net.apply(variables, batch["image"], False, batch["size"])
        return jnp.argmax(output, axis=-1)

    return Method(init, train_step, dense_embed(config), dense_views, predict=predict)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    data=DataHooks(dense="masks", dense_fields=mask_fields),
    colours="boxes and masks are of pictures in colour",
)
