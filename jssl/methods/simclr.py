"""SimCLR: a simple framework for contrastive learning of visual representations.

Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, Algorithm 1; v2: Chen et al., NeurIPS
2020, https://arxiv.org/abs/2006.10029. Details from the official code,
https://github.com/google-research/simclr:

    x~_2k-1, x~_2k = t(x_k), t'(x_k)          two views by the same family of augmentations
    h = f(x~), z = g(h)                       ONE pass over both views: their BN is shared
    loss = NT-Xent over the 2N of all devices, official form: the sum of both directions' means

BN statistics are global, the head's last BN has no beta, LARS keeps the learning rate inside the
momentum, and BN and biases take part in neither weight decay nor the trust ratio.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import losses, models
from jssl.methods._common import (
    ProjectedEncoder,
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
from jssl.parallel.collectives import mean_value_and_grad, pmean
from jssl.parallel.microbatches import accumulate_of, in_microbatches
from jssl.settings import Setting, choice, count, natural, positive
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

State = TrainState  # SimCLR remembers nothing but its network

SETTINGS: dict[str, Setting] = {
    "temperature": positive(0.1),
    "loss_form": choice("official", "paper"),  # 'official': loss_a + loss_b; 'paper': half of it
    "proj_layers": count(2),
    "proj_hidden": natural(0),  # 0: as wide as the encoder's output
    "proj_dim": count(128),
}


def make_net(config: Any, axis_name: str | None) -> ProjectedEncoder:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.simclr
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    projector = Projector(
        hidden_dims=(settings.proj_hidden,) * (settings.proj_layers - 1),
        out_dim=settings.proj_dim,
        use_bias=False,
        last_bn="scale_only",
        axis_name=axis_name,
        dtype=dtype,
    )
    return ProjectedEncoder(encoder, projector)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes SimCLR's pure functions.

    Args:
        config: from `jssl.config.base('simclr', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, `contrastive_top1` in [0, 1] (1 / N by chance)
        and `grad_norm`.
    """
    check_make("simclr", config, lengths, SETTINGS)
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        return first_state(State, key, variables, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def forward(params, images, numbers):
            size = len(images)
            x = views(key, images, numbers)  # [2,B,h,w,3]
            x = prepare(x.reshape(2 * size, *x.shape[2:]))
            (z, _, _), batch_stats = training_pass(net, params, state.batch_stats, x)
            return (z[:size], z[size:]), batch_stats

        def loss_fn(params):
            (z_a, z_b), batch_stats = in_microbatches(
                forward, params, batch["image"], accumulate=accumulate, axis_name=axis_name
            )
            loss, top1 = losses.nt_xent_with_top1(
                z_a,
                z_b,
                temperature=config.simclr.temperature,
                form=config.simclr.loss_form,
                axis_name=axis_name,
            )
            return jnp.mean(loss), (batch_stats, jnp.mean(top1))

        (loss, (batch_stats, top1)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {
            "loss": loss,
            "contrastive_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        return apply_gradients(state, grads, batch_stats, tx), metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    linear_preset="simclr",
    linear_variants={"cifar": "simclr_cifar"},
    accumulates=True,
)
