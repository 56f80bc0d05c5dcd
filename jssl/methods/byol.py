"""BYOL: bootstrap your own latent, learning without negatives.

Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733. Details from the official code,
https://github.com/google-deepmind/deepmind-research/tree/master/byol. A step, in this order:

    q_a, q_b = online(x_a), online(x_b)       encoder, projector, predictor; a pass per view
    z_a, z_b = target(x_a), target(x_b)       encoder, projector; without gradient
    loss = |q_a/|q_a| - z_b/|z_b||^2 + |q_b/|q_b| - z_a/|z_a||^2          in [0, 8]
    theta <- optimiser(theta, gradient)
    xi <- tau xi + (1 - tau) theta            from theta AFTER its update; tau grows to 1

Batch normalisation is global, over all devices, and each view's pass has its own statistics: one
pass over both views would let each be read from the other. The target trains in its own
statistics and starts from a draw of its own. Where the data has labels, a linear classifier on
the stopped features of the first view is trained along, as a thermometer: its gradient ends there.

The official target also averages predictor and classifier, which nothing reads: left out here.
Haiku corrects its running statistics for their start, ours are flax's, whose memory of it is
below 1 % after 44 steps.
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
from jssl.models.heads import Projector
from jssl.models.plain import classifier_input
from jssl.models.resnet import KERNEL_INITS
from jssl.parallel.collectives import axis_size, pmean, psum
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import NATURAL, Setting, count, either, flag, fraction
from jssl.state import cosine_momentum, ema
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "ema_momentum": fraction(0.996),  # tau at the start; 1 at the end
    "proj_hidden": count(4096),  # of the projector and of the predictor
    "proj_dim": count(256),
    "predictor": flag(True),  # False, with ema_momentum 0, is the run that collapses
    # Of the online classifier; 0: as many as the data set has; -1: none.
    "num_classes": Setting(0, either(-1, NATURAL)),
}


@flax.struct.dataclass
class State(TrainState):
    """State of BYOL, besides the fields of every method.

    Attributes:
        target: float32 parameters of the target network: encoder and projector.
        target_batch_stats: the target network's running statistics, its own and never averaged.
    """

    target: PyTree
    target_batch_stats: PyTree


class Net(nn.Module):
    """Online network: images [B,h,w,3] -> (q [B,d], h [B,D], intermediates).

    `predictor` and `classifier` may be None: then q is the projection, and there are no `logits`
    among the intermediates.
    """

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None
    classifier: nn.Module | None

    def __call__(self, images: Array, train: bool):
        h, named = self.encoder(images, train=train)
        z = self.projector(h, train=train)
        q = z if self.predictor is None else self.predictor(z, train=train)
        named = {**named, "projection": z, "prediction": q}
        if self.classifier is not None:
            named["logits"] = self.classifier(
                jax.lax.stop_gradient(classifier_input(self.encoder, h))
            )
        return q, h, named

    def project(self, images: Array, train: bool) -> Array:
        """Returns the target's projection [B,d]."""
        return self.projector(self.encoder(images, train=train)[0], train=train)


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.byol
    init = KERNEL_INITS["haiku"]

    def mlp() -> Projector:
        return Projector(
            hidden_dims=(settings.proj_hidden,),
            out_dim=settings.proj_dim,
            use_bias=True,
            last_bias=False,
            last_bn="none",
            kernel_init=init,
            axis_name=axis_name,
            momentum=config.model.bn_momentum,
            epsilon=config.model.bn_epsilon,
            dtype=dtype,
        )

    classified = settings.num_classes > 0
    return Net(
        models.build(config.model, axis_name=axis_name, dtype=dtype),
        projector=mlp(),
        predictor=mlp() if settings.predictor else None,
        classifier=nn.Dense(settings.num_classes, kernel_init=init) if classified else None,
    )


def target_part(tree: PyTree) -> PyTree:
    """Returns what the target has too: parameters or statistics of encoder and projector."""
    return {name: tree[name] for name in ("encoder", "projector") if name in tree}


def labelled_mean(
    values: Array, labelled: Array, count: Array, axis_name: str | None, accumulate: int = 1
) -> Array:
    """This part's share of the global batch's mean over labelled examples, 0 if there are none.

    The shares' mean over parts is that mean, however the labelled ones lie on them.

    Args:
        values: [b], of one device or microbatch.
        labelled: bool [b].
        count: int [], the labelled examples of the global batch.
        axis_name: the batch axis.
        accumulate: microbatches of a device.
    """
    total = jnp.sum(jnp.where(labelled, values, 0.0))
    return total * (axis_size(axis_name) * accumulate) / jnp.maximum(count, 1)


def schedules(config: Any, lengths: RunLengths) -> dict[str, Callable[[Array], Array]]:
    """Returns the schedule of the target's momentum: {name: f(step)}."""
    momentum = functools.partial(
        cosine_momentum, base=config.byol.ema_momentum, total_steps=lengths.total_steps
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
    """Makes BYOL's pure functions.

    Args:
        config: from `jssl.config.base('byol', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, BYOL's alone, in [0, 8] (about 4 for unrelated outputs),
        `ema_momentum` and `grad_norm`; and with an online classifier `classifier_loss` (nats) and
        `augmented_train_top1` in [0, 1], on the augmented first view of training examples: not a
        score of the representation. Examples whose label is negative do not take part in these.
    """
    check_make("byol", config, lengths, SETTINGS)
    momentum_at = schedules(config, lengths)["ema_momentum"]
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)
    forward = functools.partial(training_pass, net)  # one view's

    def init(key: Array, batch: Batch) -> State:
        x = prepare(views(key, batch["image"], jnp.int32(0))[0])
        keys = jax.random.split(key)
        online, target = (make_net(config, None).init(k, x, train=True) for k in keys)
        return first_state(
            State,
            key,
            online,
            tx,
            target=target_part(target["params"]),
            target_batch_stats=target_part(target.get("batch_stats", {})),
        )

    def classify(logits: Array, labels: Array, count: Any) -> tuple[Array, ...]:
        """Cross entropy and top-1 of the labelled examples; a label of K or more logs NaN."""
        labelled = labels >= 0
        labels = jnp.maximum(labels, 0)
        loss = losses.cross_entropy(logits, labels)
        top1 = losses.top_k_correct(jax.lax.stop_gradient(logits), labels, k=1)
        return tuple(labelled_mean(v, labelled, count, axis_name, accumulate) for v in (loss, top1))

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        examples = {k: batch[k] for k in ("image", "label") if k in batch}
        labelled = psum(jnp.sum(examples["label"] >= 0), axis_name) if "label" in batch else 0

        def loss_fn(params, part, numbers):
            x_a, x_b = map(prepare, views(key, part["image"], numbers))
            target_stats = state.target_batch_stats
            z_a, target_stats = forward(state.target, target_stats, x_a, Net.project)
            z_b, target_stats = forward(state.target, target_stats, x_b, Net.project)
            (q_a, _, named), batch_stats = forward(params, state.batch_stats, x_a)
            (q_b, _, _), batch_stats = forward(params, batch_stats, x_b)
            loss = jnp.mean(losses.symmetric_regression(q_a, q_b, z_a, z_b))
            logged = {"loss": loss}
            if "logits" in named:
                classifier_loss, top1 = classify(named["logits"], part["label"], labelled)
                logged.update(classifier_loss=classifier_loss, augmented_train_top1=top1)
                loss += classifier_loss
            return loss, (batch_stats, target_stats, logged)

        (_, (batch_stats, target_batch_stats, logged)), grads = accumulated_value_and_grad(
            loss_fn, state.params, examples, accumulate=accumulate, axis_name=axis_name
        )
        new = apply_gradients(state, grads, batch_stats, tx, target_batch_stats=target_batch_stats)
        tau = momentum_at(state.step)
        new = new.replace(target=ema(state.target, target_part(new.params), momentum=tau))
        metrics = {
            **pmean(logged, axis_name),
            "ema_momentum": tau,
            "grad_norm": optax.tree.norm(grads),
        }
        return new, metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    labels="optional",  # without them there is no online classifier
    target=("target", "target_batch_stats"),
    linear_preset="byol",
    schedules=schedules,
    accumulates=True,
)
