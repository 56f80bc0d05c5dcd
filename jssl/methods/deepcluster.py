"""DeepCluster: classify the clusters of one's own features, and cluster again every epoch.

Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520. Details from the official code,
https://github.com/facebookresearch/deepcluster. Before each epoch, in `refresh`:

    f = features before the last ReLU         un-augmented centre crops, evaluation mode
    f <- l2(whiten(PCA(f)))                   256 dimensions
    y, C = k-means(f)                         k = 10,000, 20 iterations, random first points
    W <- N(0, 0.01), b <- 0                   a fresh top layer, with a fresh optimiser

and then steps on batches in which every cluster comes equally often:

    loss = cross entropy(W relu(f(t(x))) + b, y(x))

The trunk keeps its optimiser's state from epoch to epoch: cluster 5 of one epoch has nothing to do
with cluster 5 of the one before, and only the top layer knew their numbers. The centroids are kept
to be looked at; training does not read them.

Batch normalisation is over the global batch; the official code's, under DataParallel, is per GPU.
AlexNet and VGG-16 see Sobel-filtered images, without which clusters are of colours.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import losses, models
from jssl.errors import UserError
from jssl.methods import _clusters
from jssl.methods._common import (
    check_make,
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import MethodSpec
from jssl.metrics.clusters import cluster_report
from jssl.models.heads import Linear
from jssl.numerics import unit_rows
from jssl.parallel.collectives import global_index, mean_value_and_grad, pmean
from jssl.settings import Setting, below_one, choice, count, positive, whole
from jssl.state import check_clusters, pca, uniform_over_clusters
from jssl.state.uniform import shuffled_members
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "num_clusters": Setting(10000, whole(2)),  # k
    "pca_dim": count(256),  # at most the features' dimension
    "kmeans_iterations": count(20),
    "empty_clusters": choice("donor", "perturb", "keep"),  # donor: faiss; perturb: the paper
    # What a batch is drawn from. uniform: each cluster equally often; examples: each example once
    # an epoch, which lets a large cluster swallow the others (section 3.2).
    "sampling": choice("uniform", "examples"),
    "top_lr": positive(0.05),  # of the top layer: SGD, constant, anew every epoch
    "top_momentum": below_one(0.0),
}


@flax.struct.dataclass
class State(TrainState):
    """State of DeepCluster, besides the fields of every method.

    Attributes:
        top_opt_state: of the top layer's optimiser; `opt_state` is the trunk's.
        centroids: float32 [k,pca_dim], of the last clustering; zeros before the first.
        assignments: int32 [M], the cluster of each training example; -1 before the first
            clustering, and for a picture that cannot be used.
        sampler_seed: int32 [], >= 0, of the order in which this epoch's examples come.
    """

    top_opt_state: PyTree
    centroids: Array
    assignments: Array
    sampler_seed: Array


class Net(nn.Module):
    """Encoder and top layer: images [B,h,w,3] -> (logits [B,k], h [B,D], intermediates)."""

    encoder: nn.Module
    top_layer: nn.Module

    def __call__(self, images: Array, train: bool):
        h, named = self.encoder(images, train=train)
        before, after = _around_last_relu(h, named)
        return self.top_layer(after), h, {**named, "clustered": before}


def _around_last_relu(h: Array, named: dict[str, Array]) -> tuple[Array, Array]:
    """Returns an encoder's features before its last ReLU (clustered) and after it (classified).

    AlexNet and VGG end before it, in a dense layer. A ResNet ends after it, in an average: what is
    clustered is the average of the last block's sum.
    """
    if "last_sum" not in named:
        return h, nn.relu(h)  # as `classifier_input`
    return jnp.mean(named.pop("last_sum").astype(jnp.float32), axis=(1, 2)), h


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config."""
    encoder = models.build(config.model, axis_name=axis_name, dtype=jnp.dtype(config.dtype))
    if not isinstance(encoder, models.PlainNet | models.ResNet):
        raise UserError(
            f"DeepCluster clusters what comes before a network's last ReLU; found model.name "
            f"'{config.model.name}'. Expected alexnet, vgg16 or a ResNet: type for example "
            "--config.model.name=resnet50."
        )
    return Net(encoder, Linear(config.deepcluster.num_clusters))


def check(config: Any, examples: int, features: int) -> None:
    """Checks the numbers of clusters and of principal directions.

    Args:
        config: the whole config.
        examples: M, of the train split.
        features: D, their dimension.

    Raises:
        UserError: more clusters than examples, more principal directions than features or
            examples.
    """
    settings = config.deepcluster
    check_clusters(settings.num_clusters, examples, flag="--config.deepcluster.num_clusters")
    largest = min(features, examples - 1)
    if not 1 <= settings.pca_dim <= largest:
        raise UserError(
            f"PCA to {settings.pca_dim} dimensions of {examples} examples with {features} "
            f"features: expected between 1 and {largest}. "
            f"Type --config.deepcluster.pca_dim={largest}."
        )


def make_refresh(
    settings: Any,
    num_examples: int,
    embed: Callable[..., Any],
    top_layer: nn.Module,
    top_tx: optax.GradientTransformation,
) -> Callable[[State, _clusters.Batches], tuple[State, dict[str, float]]]:
    """Makes `Method.refresh`: features, PCA and whitening, k-means, a new top layer.

    Args:
        settings: config.deepcluster.
        num_examples: M.
        embed: of the method; its intermediate `clustered` is what is clustered.
        top_layer, top_tx: the classifier of the clusters and its optimiser.
    """

    def features(state: State, batch: Batch) -> Array:
        return embed(state, batch["image"])[1]["clustered"]

    # Two passes, so that the features of all examples, M x D, are never in memory at once.
    @_clusters.jit_like_state
    def first_moments(state: State) -> pca.Moments:
        return pca.init_moments(state.params["top_layer"]["kernel"].shape[0])

    @_clusters.jit_like_state
    def add(state: State, moments: pca.Moments, batch: Batch) -> pca.Moments:
        return pca.add(moments, features(state, batch), batch["valid"])

    @_clusters.jit_like_state
    def fit(state: State, moments: pca.Moments) -> pca.PCA:
        return pca.fit_pca(moments, dim=settings.pca_dim)

    @_clusters.collector
    def reduced(state: State, batch: Batch, fitted: pca.PCA) -> Array:
        return unit_rows(pca.apply_pca(fitted, features(state, batch)))

    @_clusters.jit_like_state
    def draw(state: State) -> tuple[Array, Array, PyTree, PyTree]:
        """Draws k-means's key, the sampler's seed, a new top layer and its optimiser state."""
        cluster_key, seed_key, top_key = jax.random.split(_clusters.refresh_key(state), 3)
        seed = jax.random.randint(seed_key, (), 0, jnp.iinfo(jnp.int32).max)
        blank = jnp.zeros((1, state.params["top_layer"]["kernel"].shape[0]))
        top = top_layer.init(top_key, blank)["params"]
        return cluster_key, seed, top, top_tx.init(top)

    def refresh(state: State, batches: _clusters.Batches) -> tuple[State, dict[str, float]]:
        moments = first_moments(state)
        for batch in batches():
            moments = add(state, moments, batch)
        rows = reduced(state, batches, num_examples, fit(state, moments))
        key, seed, top, top_opt_state = draw(state)
        present = np.flatnonzero(rows.present)
        sharding = state.step.sharding
        clusters = _clusters.cluster(
            key,
            rows.values[present],
            sharding,
            k=settings.num_clusters,
            iterations=settings.kmeans_iterations,
            empty=settings.empty_clusters,
        )
        assignments = np.full(num_examples, -1, np.int32)
        assignments[present] = clusters.assignments
        report = cluster_report(
            assignments,
            num_clusters=settings.num_clusters,
            previous=np.asarray(state.assignments),
            labels=rows.labels,
        )
        report["objective"] = float(clusters.objective[-1]) / len(present)
        new = state.replace(
            params={**state.params, "top_layer": top},
            top_opt_state=top_opt_state,
            centroids=_clusters.place(clusters.centroids, sharding),
            assignments=_clusters.place(assignments, sharding),
            sampler_seed=seed,
        )
        return new, {f"cluster/{name}": value for name, value in report.items()}

    return refresh


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of DeepCluster.

    Args:
        config: from `jssl.config.base('deepcluster', preset='v1')`.
        tx: the trunk's optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (ln k at the start of every epoch), `cluster_top1` in
        [0, 1] on the augmented images, and the trunk's `grad_norm`. Its `refresh` gives the
        numbers of `jssl.evaluate.cluster_report` and the `objective` of k-means per example.

    Raises:
        UserError: as `check`; a network without a last ReLU.
    """
    check_make("deepcluster", config, lengths, SETTINGS)
    settings, num_examples = config.deepcluster, lengths.num_examples
    k = settings.num_clusters
    net, top_layer = make_net(config, axis_name), Linear(k)
    views, prepare = input_functions(config)
    top_tx = optax.chain(
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.sgd(settings.top_lr, settings.top_momentum),
    )

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        trunk, top = _split(variables["params"])
        check(config, num_examples, features=top["kernel"].shape[0])
        state = first_state(
            State,
            key,
            {**variables, "params": trunk},
            tx,
            top_opt_state=top_tx.init(top),
            centroids=jnp.zeros((k, settings.pca_dim), jnp.float32),
            assignments=jnp.full((num_examples,), -1, jnp.int32),
            sampler_seed=jnp.int32(0),
        )
        return state.replace(params={**trunk, "top_layer": top})

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        view_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        first = global_index(len(batch["image"]), axis_name)
        x = prepare(views(view_key, batch["image"], first)[0])
        y = state.assignments[batch["index"]]

        def loss_fn(params):
            (logits, _, _), updated = net.apply(
                {"params": params, "batch_stats": state.batch_stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            loss = losses.cross_entropy(logits, y)
            top1 = losses.top_k_correct(logits, y, k=1)
            return jnp.mean(loss), (updated.get("batch_stats", {}), jnp.mean(top1))

        (loss, (batch_stats, top1)), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        (trunk, top), (trunk_grads, top_grads) = _split(state.params), _split(grads)
        updates, opt_state = tx.update(trunk_grads, state.opt_state, trunk)
        top_updates, top_opt_state = top_tx.update(top_grads, state.top_opt_state, top)
        new = state.replace(
            step=state.step + 1,
            params={
                **optax.apply_updates(trunk, updates),
                "top_layer": optax.apply_updates(top, top_updates),
            },
            batch_stats=batch_stats,
            opt_state=opt_state,
            top_opt_state=top_opt_state,
        )
        metrics = {
            "loss": loss,
            "cluster_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(trunk_grads),
        }
        return new, metrics

    embed = embed_function(net, prepare)

    refresh = make_refresh(settings, num_examples, embed, top_layer, top_tx)

    def order(state: State) -> Any:
        """Returns the next epoch's order: as many examples of each cluster, or each example."""
        assignments, seed = np.asarray(state.assignments), int(state.sampler_seed)
        if settings.sampling == "examples":
            return functools.partial(shuffled_members, assignments >= 0)
        return functools.partial(uniform_over_clusters, assignments, seed)

    return Method(init, train_step, embed, views, refresh, order)


def _split(params: PyTree) -> tuple[PyTree, PyTree]:
    """Splits parameters into the trunk's and the top layer's."""
    trunk = {name: value for name, value in params.items() if name != "top_layer"}
    return trunk, params["top_layer"]


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    linear_preset="deepcluster",
)
