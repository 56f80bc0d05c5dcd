"""VICReg: variance, invariance and covariance regularisation, without negatives or a target.

Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906, Algorithm 1. Details from the official
code, https://github.com/facebookresearch/vicreg. A step, in this order:

    z_a, z_b = h(f(x_a)), h(f(x_b))           encoder, expander; a pass per view
    s = mean (z_a - z_b)^2                    invariance: both views at one place
    v = mean max(0, 1 - std(z))               variance: no dimension is constant; of each view
    c = sum over j != k of Cov(z)_jk^2 / D    covariance: no two dimensions say the same
    loss = 25 s + 25 (v_a + v_b) / 2 + (c_a + c_b)        over the examples of all devices

Batch normalisation is global, over all devices, each pass for itself. LARS has the learning rate
outside the momentum and leaves BN and biases alone. The official expander has biases before its
batch normalisations, which have no gradient: left out here.
"""

import functools
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
from jssl.models.conv import TORCH_INIT
from jssl.models.heads import Projector
from jssl.parallel.collectives import mean_value_and_grad
from jssl.parallel.microbatches import accumulate_of, in_microbatches
from jssl.settings import Setting, count, non_negative
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

State = TrainState  # VICReg remembers nothing but its network

SETTINGS: dict[str, Setting] = {
    "invariance": non_negative(25.0),  # the weights of the three terms
    "variance": non_negative(25.0),
    "covariance": non_negative(1.0),
    "proj_layers": count(3),  # of the expander
    "proj_hidden": count(8192),
    "proj_dim": count(8192),
}


def make_net(config: Any, axis_name: str | None) -> ProjectedEncoder:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.vicreg
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    projector = Projector(
        hidden_dims=(settings.proj_hidden,) * (settings.proj_layers - 1),
        out_dim=settings.proj_dim,
        use_bias=False,
        last_bn="none",
        kernel_init=TORCH_INIT,
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
    """Makes VICReg's pure functions.

    Args:
        config: from `jssl.config.base('vicreg', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (24.75 when collapsed, with the paper's weights), its three
        terms before their weights, `invariance`, `variance` in [0, 0.99] and `covariance`, and
        `grad_norm`.
    """
    check_make("vicreg", config, lengths, SETTINGS)
    net, settings = make_net(config, axis_name), config.vicreg
    accumulate = accumulate_of(config)
    views, prepare = input_functions(config)
    forward = functools.partial(training_pass, net)  # one view's

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        return first_state(State, key, variables, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def both(params, images, numbers):
            x_a, x_b = map(prepare, views(key, images, numbers))
            (z_a, _, _), batch_stats = forward(params, state.batch_stats, x_a)
            (z_b, _, _), batch_stats = forward(params, batch_stats, x_b)
            return (z_a, z_b), batch_stats

        def loss_fn(params):
            (z_a, z_b), batch_stats = in_microbatches(
                both, params, batch["image"], accumulate=accumulate, axis_name=axis_name
            )
            loss, terms = losses.variance_invariance_covariance(
                z_a,
                z_b,
                invariance=settings.invariance,
                variance=settings.variance,
                covariance=settings.covariance,
                axis_name=axis_name,
            )
            return loss, (batch_stats, terms)

        (loss, (batch_stats, terms)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        metrics = {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}
        return apply_gradients(state, grads, batch_stats, tx), metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    linear_preset="vicreg",
    accumulates=True,
)
