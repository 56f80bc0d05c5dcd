"""DeepCluster v2: several clusterings of the last epoch's embeddings, frozen as prototypes.

Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882, section 5 and appendix; official code
https://github.com/facebookresearch/swav, main_deepclusterv2.py. Before each epoch, in `refresh`,
for each head h, on the bank b = h mod 2 of the first or the second large crop:

    P_h, y_h = spherical k-means(bank_b)      10 iterations from random rows; an empty cluster
                                              keeps its centroid

and then steps on several large and small crops of each example:

    z = l2(projector(encoder(crop)))          the encoder once per size, the projector over all
    loss = mean over heads, crops of          - log softmax(z . P_h / T)(y_h)
    bank[b, i] <- z of the large crop b       what the next epoch's clusters are made of

The prototypes are frozen: leaves of the state and no parameters. An example that the last epoch
left out has no cluster, and counts nothing in the loss. Before the first epoch the banks are
filled in one pass, in training mode and without an update.

Differences from the official code: the loss is the mean over the global batch, not over each
GPU's; first centroids are random rows of all of the bank, not of one GPU's share; the learning
rate's warm-up starts at 0 (there .3 of 4.8) and its cosine ends at 0 (there .0048); LARS has the
norm of g + wd p where apex's LARC has the sum of both norms; pixels are divided by .229 where the
official code has .228, a slip of its; the projector's first layer has no bias, BN takes it away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import augment, losses, models
from jssl.errors import UserError
from jssl.methods import _clusters
from jssl.methods._common import (
    apply_gradients,
    channels_of,
    check_make,
    crops_on_host,
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.metrics.clusters import cluster_report
from jssl.models.conv import TORCH_INIT
from jssl.models.heads import Projector
from jssl.numerics import unit_rows
from jssl.parallel.collectives import all_gather, global_index, mean_value_and_grad, pmean
from jssl.settings import SHARE, Setting, count, each, natural, positive, whole
from jssl.state import RowUpdate, WritesRows, check_clusters, update_bank
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

LARGE = 2  # crops of an image whose embeddings are banked, besides the small ones
NEVER, BEFORE_ALL = -2, -1  # epochs of a bank's rows

SETTINGS: dict[str, Setting] = {
    "num_clusters": Setting((3000, 3000, 3000), each(whole(2), least=1)),  # K of each head
    "kmeans_iterations": count(10),
    "temperature": positive(0.1),
    "proj_hidden": count(2048),
    "proj_dim": count(128),
    "small_crops": natural(4),  # of one example; 0: none
    "small_size": count(96),
    "small_scale": Setting((0.05, 0.14), each(SHARE, count=2)),
}


@flax.struct.dataclass
class State(TrainState):
    """State of DeepCluster v2, besides the fields of every method.

    Attributes:
        bank: float32 [2,M,D], each example's embedding of its first and second large crop, of
            the epoch that `written` says.
        written: int32 [M,2], for each example the epoch in which its rows of the bank were
            written, -1 before the first step, -2 never; and its label, for the log alone.
        prototypes: a float32 [K,D] for each head, unit rows.
        assignments: int32 [heads,M], the cluster of each example; -1 for none.
    """

    bank: Array
    written: Array
    prototypes: tuple[Array, ...]
    assignments: Array


class Net(nn.Module):
    """Encoder and projector: images [B,h,w,3] -> (unit z [B,d], h [B,D], intermediates)."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, images: Array, train: bool):
        h, intermediates = self.encoder(images, train=train)
        z = unit_rows(self.projector(h, train=train))
        return z, h, {**intermediates, "projection": z}

    def crops(self, sizes: Sequence[Array], train: bool) -> Array:
        """Crops [V,B,h,w,3] of each size -> unit z [V of all sizes,B,d]."""
        B = sizes[0].shape[1]
        h = [self.encoder(x.reshape(-1, *x.shape[2:]), train=train)[0] for x in sizes]
        z = self.projector(jnp.concatenate(h), train=train)
        return unit_rows(z).reshape(-1, B, z.shape[-1])


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config."""
    dtype, settings = jnp.dtype(config.dtype), config.deepcluster_v2
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    projector = Projector(
        hidden_dims=(settings.proj_hidden,),
        out_dim=settings.proj_dim,
        use_bias=False,  # batch normalisation would take it away again
        last_bias=True,
        last_bn="none",
        kernel_init=TORCH_INIT,
        axis_name=axis_name,
        dtype=dtype,
    )
    return Net(encoder, projector)


def check(config: Any, lengths: RunLengths) -> None:
    """Checks the number of clusters and where the crops are made.

    Raises:
        UserError: more clusters than examples in an epoch, crops made on the host.
    """
    settings = config.deepcluster_v2
    flag = "--config.deepcluster_v2.num_clusters"
    examples = min(lengths.num_examples, lengths.steps_per_epoch * config.batch_size)
    for k in settings.num_clusters:
        check_clusters(k, examples, flag=flag)
    if crops_on_host(config):
        raise UserError(
            f"The crops of DeepCluster v2 have two sizes and are made on the device; found "
            f"data.host_crop='{config.data.host_crop}'. Type --config.data.host_crop=device, and "
            "--config.data.image_size=N for pictures that differ in size."
        )


def make_crops(
    config: Any, views: Callable[..., Array], prepare: Callable[[Array], Array]
) -> Callable[[Array, Array, Array], list[Array]]:
    """Makes `(key, images, first) -> crops [V,B,h,w,3]` of each size: two large ones, and small."""
    settings, small_fn = config.deepcluster_v2, None
    if settings.small_crops:
        options = {k: v for k, v in config.augment.options.items() if v is not None}
        options.update(views=settings.small_crops, scale=tuple(settings.small_scale))
        small_fn = augment.make_views(
            config.augment.name,
            size=settings.small_size,
            channels=channels_of(config),
            **options,
        )

    def crops(key: Array, images: Array, first: Array) -> list[Array]:
        large_key, small_key = jax.random.split(key)
        made = [views(large_key, images, first)]
        if small_fn is not None:
            made.append(augment.batch_views(small_fn, small_key, images, first))
        return [jax.vmap(prepare)(x) for x in made]

    return crops


def make_refresh(
    config: Any,
    lengths: RunLengths,
    views: Callable[..., Array],
    prepare: Callable[[Array], Array],
) -> Callable[[State, _clusters.Batches], tuple[State, dict[str, float]]]:
    """Makes `Method.refresh`: spherical k-means of the bank, once for each head.

    Args:
        config: the whole config.
        lengths: of the run.
        views, prepare: of `input_functions`, for the features that fill the first bank.
    """
    settings, num_examples = config.deepcluster_v2, lengths.num_examples
    num_clusters = tuple(settings.num_clusters)
    # The whole batch is one array here: its statistics are global without an axis.
    whole = make_net(config, None)

    @_clusters.collector
    def embeddings(state: State, batch: Batch) -> Array:
        x = views(_clusters.refresh_key(state), batch["image"], batch["index"][0])
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        sizes = [jax.vmap(prepare)(x)]
        z, _ = whole.apply(variables, sizes, train=True, method="crops", mutable=["batch_stats"])
        return jnp.swapaxes(z, 0, 1)  # [N,V,d]

    @_clusters.jit_like_state
    def keys_of_heads(state: State) -> tuple[Array, ...]:
        return tuple(jax.random.split(_clusters.refresh_key(state), len(num_clusters)))

    def filled(state: State, batches: _clusters.Batches) -> State:
        """Fills the bank before the first step."""
        rows, sharding = embeddings(state, batches, num_examples), state.step.sharding
        epochs = np.where(rows.present, BEFORE_ALL, NEVER).astype(np.int32)
        return state.replace(
            bank=_clusters.place(np.moveaxis(rows.values, 1, 0), sharding),
            written=_clusters.place(np.stack([epochs, rows.labels], axis=1), sharding),
        )

    def refresh(state: State, batches: _clusters.Batches) -> tuple[State, dict[str, float]]:
        epoch = int(state.step) // lengths.steps_per_epoch
        if int(state.step) == 0:
            state = filled(state, batches)
        bank, (epochs, labels) = np.asarray(state.bank), np.asarray(state.written).T
        previous = np.asarray(state.assignments)
        present = np.flatnonzero(epochs == epoch - 1)
        assignments, prototypes = np.full_like(previous, -1), []
        reports, sharding = [], state.step.sharding
        for head, key in enumerate(keys_of_heads(state)):
            k = num_clusters[head]
            clusters = _clusters.cluster(
                key,
                bank[head % LARGE, present],
                sharding,
                k=k,
                iterations=settings.kmeans_iterations,
                empty="keep",
                spherical=True,
            )
            assignments[head, present] = clusters.assignments
            prototypes.append(_clusters.place(clusters.centroids, sharding))
            report = cluster_report(
                assignments[head], num_clusters=k, previous=previous[head], labels=labels
            )
            reports.append({**report, "objective": float(clusters.objective[-1]) / len(present)})
        new = state.replace(
            prototypes=tuple(prototypes), assignments=_clusters.place(assignments, sharding)
        )
        means = {name: float(np.mean([r[name] for r in reports])) for name in reports[0]}
        return new, {f"cluster/{name}": value for name, value in means.items()}

    return refresh


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of DeepCluster v2.

    Args:
        config: from `jssl.config.base('deepcluster_v2', preset='v2' | 'cifar')`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, `cluster_top1` in [0, 1], both means over heads, crops
        and the examples that have a cluster, and `grad_norm`. Its `refresh` gives the numbers of
        `jssl.evaluate.cluster_report` and k-means's `objective` per example, as means over heads.

    Raises:
        UserError: as `check`.
    """
    check_make("deepcluster_v2", config, lengths, SETTINGS)
    settings, num_examples = config.deepcluster_v2, lengths.num_examples
    num_clusters, steps_per_epoch = tuple(settings.num_clusters), lengths.steps_per_epoch
    net = make_net(config, axis_name)
    views, prepare = input_functions(config)
    crops = make_crops(config, views, prepare)

    def init(key: Array, batch: Batch) -> State:
        check(config, lengths)
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        dim = settings.proj_dim
        return first_state(
            State,
            key,
            variables,
            tx,
            bank=jnp.zeros((LARGE, num_examples, dim), jnp.float32),
            written=jnp.tile(jnp.array([[NEVER, -1]], jnp.int32), (num_examples, 1)),
            prototypes=tuple(jnp.zeros((k, dim), jnp.float32) for k in num_clusters),
            assignments=jnp.full((len(num_clusters), num_examples), -1, jnp.int32),
        )

    def loss_of_heads(state: State, z: Array, index: Array) -> tuple[Array, Array]:
        per_head = [
            losses.prototype_cross_entropy_with_top1(
                z, prototypes, y, temperature=settings.temperature, axis_name=axis_name
            )
            for prototypes, y in zip(state.prototypes, state.assignments[:, index], strict=True)
        ]
        loss, top1 = (jnp.mean(jnp.stack(values)) for values in zip(*per_head, strict=True))
        return loss, top1

    @WritesRows
    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        index = batch["index"]
        first = global_index(len(index), axis_name)
        x = crops(jax.random.fold_in(state.key, state.step), batch["image"], first)

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            z, updated = net.apply(
                variables, x, train=True, method="crops", mutable=["batch_stats"]
            )
            loss, top1 = loss_of_heads(state, z, index)
            large = jax.lax.stop_gradient(z[:LARGE])
            return loss, (updated.get("batch_stats", {}), top1, large)

        (loss, aux), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        batch_stats, top1, large = aux
        metrics = {
            "loss": loss,
            "cluster_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        bank = update_bank(state.bank, large, index, momentum=0.0, axis_name=axis_name)
        epoch = jnp.broadcast_to(state.step // steps_per_epoch, index.shape)
        note = jnp.stack([epoch, batch["label"].astype(jnp.int32)], axis=1)
        written = RowUpdate(
            state.written, all_gather(index, axis_name), all_gather(note, axis_name)
        )
        new = apply_gradients(state, grads, batch_stats, tx, bank=bank, written=written)
        return new, metrics

    refresh = make_refresh(config, lengths, views, prepare)
    return Method(init, train_step, embed_function(net, prepare), views, refresh)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=LARGE,
    linear_preset="swav",
    data=DataHooks(device_crops=lambda config: True),  # of two sizes
)
