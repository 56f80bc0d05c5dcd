"""MoCo v3: momentum contrast without a queue, for the ResNet and the ViT.

Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057, Algorithm 1. Details from the official
code, https://github.com/facebookresearch/moco-v3. A step, in this order:

    q1, q2 = f_q(x1), f_q(x2)                 encoder, projector, predictor; a pass per view
    f_k <- m f_k + (1 - m) f_q                from f_q BEFORE this step's update; no predictor
    k1, k2 = f_k(x1), f_k(x2)                 encoder, projector; without gradient
    loss = ctr(q1, k2) + ctr(q2, k1)          ctr = 2 T cross entropy, negatives: all keys of a view
    update f_q

Batch normalisation is global, over all devices, each pass for itself; m grows to 1 along half a
cosine. ResNet: LARS has the learning rate outside the momentum and leaves BN and biases alone.

ViT (section 4): the patch embedding stays as random as it was born, without gradient and without
weight decay; positions are fixed; the projector has three layers, and the predictor ends with a
normalisation too. AdamW decays every parameter that it moves.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jssl import losses, models
from jssl.methods._common import (
    apply_gradients,
    check_make,
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
    training_pass,
)
from jssl.methods.spec import MethodSpec
from jssl.models.conv import TORCH_INIT
from jssl.models.heads import Projector
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.parallel.microbatches import accumulate_of, in_microbatches
from jssl.settings import Setting, choice, count, fraction, positive
from jssl.state import cosine_momentum, ema
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "temperature": positive(1.0),
    "ema_momentum": fraction(0.99),  # m at the start; 1 at the end
    "proj_hidden": count(4096),  # of the projector and of the predictor
    "proj_dim": count(256),
    "proj_layers": count(2),
    "pred_last_bn": choice("none", "plain"),  # after the predictor: none | plain
}


@flax.struct.dataclass
class State(TrainState):
    """State of MoCo v3, besides the fields of every method.

    Attributes:
        target: float32 parameters of the key network: encoder and projector.
        target_batch_stats: the key network's running statistics, its own and never averaged.
    """

    target: PyTree
    target_batch_stats: PyTree


class Net(nn.Module):
    """Encoder, projector and predictor: images [B,h,w,3] -> (q [B,d], h [B,D], intermediates)."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module

    def __call__(self, images: Array, train: bool):
        h, intermediates = self.encoder(images, train=train)
        z = self.projector(h, train=train)
        q = self.predictor(z, train=train)
        return q, h, {**intermediates, "projection": z, "prediction": q}

    def project(self, images: Array, train: bool) -> Array:
        """Returns the key network's projection [B,d]."""
        return self.projector(self.encoder(images, train=train)[0], train=train)


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.moco_v3

    def mlp(layers: int, last_bn: str) -> Projector:
        return Projector(
            hidden_dims=(settings.proj_hidden,) * (layers - 1),
            out_dim=settings.proj_dim,
            use_bias=False,
            last_bn=last_bn,
            kernel_init=TORCH_INIT,
            axis_name=axis_name,
            dtype=dtype,
        )

    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    return Net(
        encoder,
        projector=mlp(settings.proj_layers, "plain"),
        predictor=mlp(2, settings.pred_last_bn),
    )


def without_predictor(tree: PyTree) -> PyTree:
    """Returns what the key network has too: parameters or statistics without the predictor's."""
    return {name: part for name, part in tree.items() if name != "predictor"}


def schedules(config: Any, lengths: RunLengths) -> dict[str, Callable[[Array], Array]]:
    """Returns the schedule of the key network's momentum: {name: f(step)}."""
    momentum = functools.partial(
        cosine_momentum, base=config.moco_v3.ema_momentum, total_steps=lengths.total_steps
    )
    return {"ema_momentum": momentum}


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes MoCo v3's pure functions.

    Args:
        config: from `jssl.config.base('moco_v3', preset='v3')`, or 'v3_vit'.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (4 T ln N at uniform logits), `contrastive_top1` in
        [0, 1] (1 / N by chance), `ema_momentum` and `grad_norm`.
    """
    check_make("moco_v3", config, lengths, SETTINGS)
    momentum_at = schedules(config, lengths)["ema_momentum"]
    settings = config.moco_v3
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)
    forward = functools.partial(training_pass, net)  # one view's

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        return first_state(
            State,
            key,
            variables,
            tx,
            target=without_predictor(variables["params"]),
            target_batch_stats=without_predictor(variables.get("batch_stats", {})),
        )

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        momentum = momentum_at(state.step)
        target = ema(state.target, without_predictor(state.params), momentum=momentum)

        def both(params, images, numbers):
            x_a, x_b = map(prepare, views(key, images, numbers))
            k_a, target_stats = forward(target, state.target_batch_stats, x_a, Net.project)
            k_b, target_stats = forward(target, target_stats, x_b, Net.project)
            (q_a, _, _), batch_stats = forward(params, state.batch_stats, x_a)
            (q_b, _, _), batch_stats = forward(params, batch_stats, x_b)
            return (q_a, q_b, k_a, k_b), (batch_stats, target_stats)

        def loss_fn(params):
            (q_a, q_b, k_a, k_b), stats = in_microbatches(
                both, params, batch["image"], accumulate=accumulate, axis_name=axis_name
            )
            loss, top1 = losses.symmetric_info_nce_with_top1(
                q_a, q_b, k_a, k_b, temperature=settings.temperature, axis_name=axis_name
            )
            return jnp.mean(loss), (stats, jnp.mean(top1))

        (loss, (stats, top1)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {
            "loss": loss,
            "contrastive_top1": pmean(top1, axis_name),
            "ema_momentum": momentum,
            "grad_norm": optax.tree.norm(grads),
        }
        new = apply_gradients(
            state,
            grads,
            stats[0],
            tx,
            target=target,
            target_batch_stats=stats[1],
        )
        return new, metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    target=("target", "target_batch_stats"),
    linear_preset="moco_v3",
    linear_variants={"vit": "moco_v3_vit"},
    schedules=schedules,
    accumulates=True,
)
