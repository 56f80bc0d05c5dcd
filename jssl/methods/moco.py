"""MoCo v1 and v2: momentum contrast with a queue. (v3 has no queue: jssl/methods/moco_v3.py)

He et al., CVPR 2020, https://arxiv.org/abs/1911.05722, Algorithm 1; v2: Chen et al., 2020,
https://arxiv.org/abs/2003.04297. Details from the official code,
https://github.com/facebookresearch/moco. A step, in this order:

    q = f_q(x_q)                              query net, the only one with a gradient
    f_k <- m f_k + (1 - m) f_q                from f_q BEFORE this step's update; no BN statistics
    k = unshuffle(f_k(shuffle(x_k)))          shuffled BN
    l = [q.k, q.queue] / T, label 0           the keys of this step are not in the queue yet
    update f_q; enqueue(k)

Batch normalisation has the statistics of groups, `config.model.bn_groups` of the global batch (8
GPUs of 32 images in the papers), whatever the number of devices. A query and its key in one group
could be recognised by the statistics they share; the keys are therefore encoded in the order of
one global permutation, drawn from the step's key and the same in every launch mode. In microbatches
the groups are those of each, and the permutation is that of the whole batch: it moves keys between
microbatches too.

The learning rate of the cosine falls with every step; the official code's with every epoch. The
linear layers' biases start at 0, torch's in +-1/sqrt(fan in).
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jssl import losses, models
from jssl.errors import UserError
from jssl.methods._common import (
    ProjectedEncoder,
    apply_gradients,
    check_make,
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import MethodSpec
from jssl.models.conv import TORCH_INIT
from jssl.models.heads import Projector
from jssl.parallel.collectives import (
    all_gather,
    axis_size,
    global_index,
    pmean,
)
from jssl.parallel.microbatches import (
    accumulate_of,
    accumulated_value_and_grad,
    in_microbatches,
)
from jssl.settings import Setting, choice, count, flag, fraction, positive
from jssl.state import check_queue_size, ema, enqueue, random_queue, unit_rows
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "temperature": positive(0.2),
    "queue_size": count(65536),  # K, a multiple of the global batch
    "ema_momentum": fraction(0.999),  # m
    "shuffle": flag(True),  # False only to see what it prevents
    "head": choice("mlp", "linear"),  # v2's has a layer as wide as the encoder's output; v1's none
    "proj_dim": count(128),
}
HEADS = {"linear": (), "mlp": (0,)}  # hidden layers of the projector


@flax.struct.dataclass
class State(TrainState):
    """State of MoCo, besides the fields of every method.

    Attributes:
        target: float32 parameters of the key network.
        target_batch_stats: the key network's running statistics, its own and never averaged.
        queue: float32 [K,D], unit rows.
        queue_pointer: int32 [], the row of the oldest key.
    """

    target: PyTree
    target_batch_stats: PyTree
    queue: Array
    queue_pointer: Array


def make_net(config: Any, axis_name: str | None) -> ProjectedEncoder:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.moco
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    projector = Projector(
        hidden_dims=HEADS[settings.head],
        out_dim=settings.proj_dim,
        use_bias=True,
        hidden_bn=False,
        last_bn="none",
        kernel_init=TORCH_INIT,
        dtype=dtype,
    )
    return ProjectedEncoder(encoder, projector)


def shuffle(x: Array, order: Array, axis_name: str | None) -> Array:
    """Shuffles the global batch; returns this device's share: [B,...] -> [B,...].

    Args:
        x: [B,...], this device's examples.
        order: int [N], a permutation of the global batch, equal on every device.
        axis_name: the batch axis.
    """
    mine = jax.lax.dynamic_slice_in_dim(order, global_index(len(x), axis_name), len(x))
    return all_gather(x, axis_name)[mine]


def unshuffle(x: Array, order: Array, axis_name: str | None) -> Array:
    """Inverts `shuffle`; returns the whole global batch: [B,...] -> [N,...].

    Args:
        x: [B,...], this device's share of the other order.
        order: int [N], as `shuffle` had it.
        axis_name: the batch axis.
    """
    return all_gather(x, axis_name)[jnp.argsort(order)]


def check(config: Any) -> None:
    """Checks queue, groups of batch normalisation and shuffle.

    Raises:
        UserError: a queue that is no multiple of the batch, groups that the batch does not fill,
            or a shuffle that could do nothing.
    """
    check_queue_size(config.moco.queue_size, batch_size=config.batch_size)
    groups, accumulate = config.model.bn_groups, accumulate_of(config)
    if config.batch_size % groups:
        raise UserError(
            f"Global batch size {config.batch_size} cannot be split into {groups} groups of batch "
            f"normalisation. Type --config.model.bn_groups={_divisor(config.batch_size, groups)}."
        )
    # A microbatch is a group too: keys are shuffled between microbatches.
    if config.moco.shuffle and config.model.norm == "bn" and groups * accumulate == 1:
        raise UserError(
            "MoCo shuffles keys between groups of batch normalisation, but model.bn_groups is 1: "
            "queries and keys would share statistics, and the net would cheat by them. Expected 2 "
            "or more, or --config.accumulate=2 or more: a microbatch is a group of its own. "
            f"Type --config.model.bn_groups={_divisor(config.batch_size, 8)}, or "
            "--config.moco.shuffle=False if that is meant."
        )


def _divisor(batch_size: int, at_most: int) -> int:
    return max(n for n in range(1, at_most + 1) if batch_size % n == 0)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of MoCo v1 and v2.

    Args:
        config: from `jssl.config.base('moco', preset='v1' | 'v2' | 'cifar')`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (it rises while the queue fills with real keys, then
        falls), `contrastive_top1` in [0, 1] (1 / (K+1) by chance) and `grad_norm`.

    Raises:
        UserError: as `check`; an unknown head.
    """
    check_make("moco", config, lengths, SETTINGS)
    check(config)
    settings = config.moco
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)

    def init(key: Array, batch: Batch) -> State:
        net_key, queue_key = jax.random.split(key)
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(net_key, prepare(images), train=True)
        queue, pointer = random_queue(queue_key, size=settings.queue_size, dim=settings.proj_dim)
        return first_state(
            State,
            key,
            variables,
            tx,
            target=variables["params"],
            target_batch_stats=variables.get("batch_stats", {}),
            queue=queue,
            queue_pointer=pointer,
        )

    def apply(params: PyTree, batch_stats: PyTree, x: Array) -> tuple[Array, PyTree]:
        variables = {"params": params, "batch_stats": batch_stats}
        (z, _, _), updated = net.apply(variables, x, train=True, mutable=["batch_stats"])
        return z, updated.get("batch_stats", {})

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        size = len(batch["image"])
        first, total = global_index(size, axis_name), size * axis_size(axis_name)
        view_key, order_key = jax.random.split(jax.random.fold_in(state.key, state.step))

        def query_and_key(images, numbers):
            x_q, x_k = views(view_key, images, numbers)  # [B,h,w,3]
            return prepare(x_q), prepare(x_k)

        images = batch["image"]
        target = ema(state.target, state.params, momentum=settings.ema_momentum)
        order = jax.random.permutation(order_key, total)
        order = order if settings.shuffle else jnp.arange(total)
        if accumulate == 1:
            x_q, x_k = query_and_key(images, first)
            # In the computation's type the images travel as the net will see them.
            x_k = shuffle(x_k.astype(config.dtype), order, axis_name)
            k, target_batch_stats = apply(target, state.target_batch_stats, x_k)
        else:  # the images travel as they came, so that no view of the whole batch is held
            shuffled = shuffle(images, order, axis_name)
            numbers = shuffle(first + jnp.arange(size), order, axis_name)
            k, target_batch_stats = in_microbatches(
                lambda target, part, _: apply(
                    target, state.target_batch_stats, query_and_key(*part)[1].astype(config.dtype)
                ),
                target, (shuffled, numbers), accumulate=accumulate, axis_name=axis_name,
            )  # fmt: skip
        keys = unit_rows(unshuffle(k, order, axis_name))  # [N,D]
        positives = jax.lax.dynamic_slice_in_dim(keys, first, size)

        def loss_fn(params, examples, numbers):
            x, positives = examples
            x = x if accumulate == 1 else query_and_key(x, numbers)[0]
            q, batch_stats = apply(params, state.batch_stats, x)
            loss, top1 = losses.info_nce_with_top1(
                q, positives, state.queue, temperature=settings.temperature
            )
            return jnp.mean(loss), (batch_stats, jnp.mean(top1))

        examples = (x_q if accumulate == 1 else images, positives)
        (loss, (batch_stats, top1)), grads = accumulated_value_and_grad(
            loss_fn, state.params, examples, accumulate=accumulate, axis_name=axis_name
        )
        queue, pointer = enqueue(state.queue, state.queue_pointer, keys)
        metrics = {
            "loss": loss,
            "contrastive_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        new = apply_gradients(
            state,
            grads,
            batch_stats,
            tx,
            target=target,
            target_batch_stats=target_batch_stats,
            queue=queue,
            queue_pointer=pointer,
        )
        return new, metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    target=("target", "target_batch_stats"),
    linear_preset="moco",
    accumulates=True,
)
