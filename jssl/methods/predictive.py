"""Predictive learning: each view of an example predicted from the other, the baseline of CMC.

Tian, Krishnan and Isola, ECCV 2020, https://arxiv.org/abs/1906.05849, section 3.1; its ancestor is
the split-brain autoencoder, Zhang, Isola and Efros, CVPR 2017, https://arxiv.org/abs/1611.09842:

    z_i = f_i(v_i)                  an encoder for each of two views: its last map [h,w,D]
    v^_j = g_i(z_i)                 a decoder for each direction, i -> j and j -> i
    loss = L(v^_2, v_2 at h x w) + L(v^_1, v_1 at h x w)          L: L1 or L2, a mean over values
    features = mean of z_1 | mean of z_2                          one after the other, as CMC's

CMC's paper fixes encoder, decoder and the loss value by value; its baseline's code and settings
were never published. Split-brain fixes both directions, the halves side by side, and a target of
reduced resolution. Ours are: the decoder, a 3x3 and a 1x1 convolution with a ReLU between them;
the target at the resolution of the encoder's last map, by an antialiased linear filter; the sum
without weights. Split-brain's better loss, a cross entropy of quantised colours, is not here.

Encoders, views and augmentation are CMC's: runs of the two differ in head and loss alone.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import losses, models
from jssl.errors import UserError
from jssl.methods._common import (
    apply_gradients,
    check_make,
    first_state,
    in_32_bits,
    input_functions,
    training_pass,
)
from jssl.methods._views import (
    check_views,
    embed_views,
    extra_fields,
    make_inputs,
    side_by_side,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.conv import Conv
from jssl.parallel.collectives import global_index, mean_value_and_grad, pmean
from jssl.settings import TEXT, Setting, choice, count, each, natural
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

State = TrainState  # there is nothing to remember but the network

SETTINGS: dict[str, Setting] = {
    "views": Setting(("l", "ab"), each(TEXT, count=2)),  # keys of jssl.augment.modalities.VIEWS
    "norm": choice("l2", "l1"),
    "decoder_dim": count(128),  # channels between its two convolutions
    "segments": natural(0),  # labels of view 'segmentation'
    "flow_frames": natural(0),  # fields of flow in view 'flow'
}


class Decoder(nn.Module):
    """A map [B,h,w,D] to a view float32 [B,h,w,channels]."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, channels: int) -> Array:
        layer = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        x = nn.relu(layer(self.hidden, (3, 3), name="conv0")(x))
        small = nn.initializers.normal(0.01)  # it begins near 0, the centre of every view
        return layer(channels, (1, 1), kernel_init=small, name="conv1")(x).astype(jnp.float32)


class Net(nn.Module):
    """An encoder for each view, and a decoder from its last map to the other view.

    Called with `{view: [B,H,W,C]}`: ({view that was seen: prediction of the other [B,h,w,C]},
    h [B,V D], intermediates with the views' channels one after the other).
    """

    encoders: Mapping[str, nn.Module]
    decoders: Mapping[str, Decoder]

    def __call__(self, inputs: Mapping[str, Array], train: bool):
        predictions, h, named = {}, [], []
        for view in [v for v in self.encoders if v in inputs]:
            features, intermediates = self.encoders[view](inputs[view], train=train)
            for other in inputs.keys() - {view}:
                channels = inputs[other].shape[-1]
                predictions[view] = self.decoders[view](last_map(intermediates), channels)
            h.append(features)
            named.append(intermediates)
        return predictions, jnp.concatenate(h, axis=-1), side_by_side(named)


def last_map(intermediates: Mapping[str, Array]) -> Array:
    """The last map [B,h,w,D] of a convolutional encoder; UserError for another."""
    maps = [x for name, x in intermediates.items() if x.ndim == 4 and name != "last_sum"]
    if not maps:
        raise UserError(
            "Method 'predictive' predicts from an encoder's last map [B,h,w,D]: found "
            f"{', '.join(intermediates) or 'none'}. Type --config.model.name=resnet18."
        )
    return maps[-1]


def make_net(config: Any, axis_name: str | None) -> Net:
    """The encoders and decoders of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.predictive
    return Net(
        {v: models.build(config.model, axis_name=axis_name, dtype=dtype) for v in settings.views},
        {v: Decoder(settings.decoder_dim, dtype) for v in settings.views},
    )


def _explained(prediction: Array, target: Array, axis_name: str | None) -> Array:
    """1 - squared error / variance over the cells of the global batch."""
    cells = (0, 1, 2)
    error = jnp.mean(losses.squared_error(prediction, target))
    moments = jnp.mean(target, axis=cells), jnp.mean(jnp.square(target), axis=cells)
    error, (mean, square) = pmean((error, moments), axis_name)
    return 1 - error / jnp.maximum(jnp.mean(square - jnp.square(mean)), 1e-8)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes predictive learning's pure functions.

    `embed(state, images)` is CMC's.

    Args:
        config: from `jssl.config.base('predictive', preset=...)`.
        tx, lengths, axis_name: as in every method.

    Returns:
        A `Method`; its step logs `loss`, the sum of `loss_l_ab` (ab predicted from L) and
        `loss_ab_l`; `explained_l_ab` and `explained_ab_l`, the share of the variance within the
        batch that is predicted, at most 1 and 0 for the best constant; and `grad_norm`.

    Raises:
        UserError: views or a word in `config.predictive` that cannot work.
    """
    check_make("predictive", config, lengths, SETTINGS)
    check_views(config)
    views = tuple(config.predictive.views)
    directions = (views, views[::-1])
    crops, _ = input_functions(config)
    split, inputs = make_inputs(config, crops)
    net = make_net(config, axis_name)

    def init(key: Array, batch: Batch) -> State:
        x = inputs(key, batch, jnp.int32(0))
        variables = make_net(config, None).init(key, x, train=True)
        return first_state(State, key, variables, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        x = inputs(key, batch, global_index(len(batch["image"]), axis_name))

        def loss_fn(params):
            (predictions, _, _), batch_stats = training_pass(net, params, state.batch_stats, x)
            reduce_to = functools.partial(jax.image.resize, method="linear", antialias=True)
            targets = {i: reduce_to(x[j], predictions[i].shape) for i, j in directions}
            of_each = functools.partial(losses.view_prediction, norm=config.predictive.norm)
            terms = [jnp.mean(of_each(predictions[i], targets[i])) for i in views]
            watched = jax.lax.stop_gradient((terms, predictions, targets))
            return sum(terms), (batch_stats, watched)

        (loss, aux), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        batch_stats, (terms, predictions, targets) = aux
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        for (i, j), term in zip(directions, pmean(terms, axis_name), strict=True):
            metrics[f"loss_{i}_{j}"] = term
            metrics[f"explained_{i}_{j}"] = _explained(predictions[i], targets[i], axis_name)
        return apply_gradients(state, grads, batch_stats, tx), metrics

    return Method(init, train_step, embed_views(net, split, views), crops)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    colours="it splits a picture into the channels of Lab or into modalities",
    num_crops=1,  # the views are parts of it
    linear_preset="cmc",
    run_name=lambda config: f", {config.predictive.norm.upper()}",
    data=DataHooks(
        device_crops=lambda config: bool(extra_fields(config)), extra_fields=extra_fields
    ),
)
