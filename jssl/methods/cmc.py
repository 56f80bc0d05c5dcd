"""CMC: contrastive multiview coding.

Tian, Krishnan and Isola, ECCV 2020, https://arxiv.org/abs/1906.05849. Details from the official
code, https://github.com/HobbitLong/CMC, which has the two views (L, ab) and (Y, CbCr):

    f_v = normalise(g_v(x_v))                  an encoder and a linear head for each view v
    s_ij = f_i . bank_j[y, k_1 ... k_K]        anchor i, candidates of the OTHER view, both ways
    loss = sum over pairs (i, j) of L(s_ij) + L(s_ji)         core view: i = 1; full graph: i < j
    bank_v[y] <- normalise(m bank_v[y] + (1 - m) f_v)         after the scores, at y alone

A bank holds one embedding of every example in every view. L is noise-contrastive estimation with
a constant Z, set by the first batch, or ('softmax', right for small data: there Z of the first
batch is far off) a cross entropy. 'in_batch' needs no bank: the negatives are the other examples
of the batch; it is not official. All views of one example are cut by one box. The pairs share
their K negatives; the official code has one pair.

The bank of ImageNet takes 1.3 GB of each device; under `launch = "shard_map"` devices share it by
index.

BN statistics are per GPU in the official code: `model.bn_groups` groups of the global batch.
Weight decay reaches every parameter. The last incomplete batch of an epoch is dropped here.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
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
)
from jssl.methods._views import (
    check_views,
    embed_views,
    extra_fields,
    make_inputs,
    side_by_side,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.conv import TORCH_INIT
from jssl.models.heads import Projector
from jssl.numerics import unit_rows
from jssl.parallel.collectives import global_index, mean_value_and_grad, pmean
from jssl.settings import TEXT, Setting, choice, count, each, fraction, natural, positive
from jssl.state import (
    WritesRows,
    draw_candidates,
    first_row,
    init_bank,
    score_candidates,
    update_bank,
)
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState


@flax.struct.dataclass
class State(TrainState):
    """CMC's state.

    Attributes:
        bank: float32 [V,R,D] for M <= R examples, unit rows once they were written; {} with
            in-batch negatives.
        normalizers: float32 [P,2], Z of each pair and direction; -1 until the first step.
    """

    SPLIT: ClassVar[dict[str, int]] = {"bank": 1}

    bank: PyTree
    normalizers: Array


SETTINGS: dict[str, Setting] = {
    # Keys of jssl.augment.modalities.VIEWS; the first is the core.
    "views": Setting(("l", "ab"), each(TEXT, least=2)),
    "graph": choice("core", "full"),
    "contrast": choice("nce", "softmax", "in_batch"),
    "num_negatives": count(4096),  # K; official README 4096, its code 16384
    "temperature": positive(0.07),  # STL-10: 0.1
    "bank_momentum": fraction(0.5),
    "proj_dim": count(128),
    "segments": natural(0),  # labels of view 'segmentation'
    "flow_frames": natural(0),  # fields of flow in view 'flow'
}


class Net(nn.Module):
    """An encoder and a head for each view.

    Called with `{view: [B,H,W,C]}`: (z float32 [V,B,d] of unit length, h [B,V D], intermediates
    with the views' channels one after the other).
    """

    encoders: Mapping[str, nn.Module]
    heads: Mapping[str, nn.Module]

    def __call__(self, inputs: Mapping[str, Array], train: bool):
        z, h, named = [], [], []
        for view in [v for v in self.encoders if v in inputs]:
            features, intermediates = self.encoders[view](inputs[view], train=train)
            embedding = self.heads[view](features, train=train)
            z.append(unit_rows(embedding))
            h.append(features)
            named.append(intermediates)
        intermediates = side_by_side(named)
        intermediates["projection"] = jnp.concatenate(z, axis=-1)
        return jnp.stack(z), jnp.concatenate(h, axis=-1), intermediates


def make_net(config: Any, axis_name: str | None) -> Net:
    """The encoders and heads of a config."""
    dtype = jnp.dtype(config.dtype)

    def encoder() -> nn.Module:
        return models.build(config.model, axis_name=axis_name, dtype=dtype)

    def head() -> nn.Module:
        return Projector(
            (),
            config.cmc.proj_dim,
            last_bias=True,
            last_bn="none",
            kernel_init=TORCH_INIT,
            dtype=dtype,
        )

    views = config.cmc.views
    return Net({view: encoder() for view in views}, {view: head() for view in views})


def _check(config: Any) -> None:
    s = config.cmc
    check_views(config)
    losses.view_pairs(len(s.views), graph=s.graph)
    if s.contrast == "in_batch" and config.batch_size < 2:
        raise UserError("In-batch negatives need --config.batch_size=2 or more; found 1.")


def _top1(scores: Array, others: Array | None) -> Array:
    """Share of scores [P,2,B,K+1] whose first is the highest; `others` [B,K] marks true negatives.

    A drawn negative may be the example itself: it is not the nearest other.
    """
    negatives = scores[..., 1:]
    if others is not None:
        negatives = jnp.where(others[None, None], negatives, -jnp.inf)
    return jnp.mean(scores[..., 0] > jnp.max(negatives, axis=-1))


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes CMC's pure functions.

    `embed(state, images)` takes a picture [B,H,W,3] and gives the features of all views that are
    made of it, side by side; given a mapping of all arrays of a batch, those of every view.

    Args:
        config: from `jssl.config.base('cmc', preset=...)`.
        tx: the optimiser.
        lengths: of the run; `num_examples` is the size of the bank.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, `contrastive_top1` in [0, 1] (1 / (K+1) by chance),
        `mi_bound` in nats, log(k) - L_contrast averaged over pairs and directions, the same for
        each pair as `mi_bound_l_ab`, and `grad_norm`.

    Raises:
        UserError: a word, number or combination in `config.cmc` that cannot work.
    """
    check_make("cmc", config, lengths, SETTINGS)
    _check(config)
    settings, views = config.cmc, tuple(config.cmc.views)
    net = make_net(config, axis_name)
    crops, _ = input_functions(config)
    split, inputs = make_inputs(config, crops)
    pairs = losses.view_pairs(len(views), graph=settings.graph)
    in_batch = settings.contrast == "in_batch"
    num_examples = lengths.num_examples
    negatives = config.batch_size - 1 if in_batch else settings.num_negatives

    def init(key: Array, batch: Batch) -> State:
        x = inputs(key, batch, jnp.int32(0))
        variables = make_net(config, None).init(key, x, train=True)
        bank: PyTree = {}
        if not in_batch:
            bank = init_bank(
                jax.random.fold_in(key, jnp.uint32(0xFFFFFFFF)),  # no step's number
                views=len(views),
                num_examples=num_examples,
                dim=settings.proj_dim,
            )
        normalizers = jnp.full((len(pairs), 2), -1.0, jnp.float32)
        return first_state(State, key, variables, tx, bank=bank, normalizers=normalizers)

    def scores_of(z: Array, bank: PyTree, index: Array) -> Array:
        if in_batch:
            return losses.in_batch_scores(z, graph=settings.graph, axis_name=axis_name)
        return score_candidates(
            functools.partial(losses.multiview_scores, graph=settings.graph),
            bank,
            z,
            index,
            first=first_row(bank, num_examples=num_examples, axis_name=axis_name),
            axis_name=axis_name,
        )

    def contrast(scores: Array, softmax: Array, normalizers: Array) -> tuple[Array, Array]:
        """The loss [P,2,B] by `cmc.contrast`; NCE's Z, estimated from the first batch."""
        if settings.contrast != "nce":
            return softmax, normalizers
        temperature = settings.temperature
        z_of_batch = losses.nce_normalizer(
            scores, temperature=temperature, num_examples=num_examples, axis_name=axis_name
        )
        normalizers = jnp.where(normalizers < 0, z_of_batch, normalizers)
        loss = losses.nce(scores, normalizers, temperature=temperature, num_examples=num_examples)
        return loss, normalizers

    @WritesRows
    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        size = len(batch["image"])
        first = global_index(size, axis_name)
        crop_key, draw_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x, y = inputs(crop_key, batch, first), batch["index"]
        index = draw_candidates(
            draw_key, y, first, num_negatives=negatives, num_examples=num_examples
        )

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            (z, _, _), updated = net.apply(variables, x, train=True, mutable=["batch_stats"])
            scores = scores_of(z, state.bank, index)  # [P,2,B,K+1]
            softmax = losses.nce_softmax(scores, temperature=settings.temperature)
            loss, normalizers = contrast(scores, softmax, state.normalizers)
            watched = jax.lax.stop_gradient((z, scores, jnp.mean(softmax, axis=(1, 2))))
            loss = jnp.mean(jnp.sum(loss, axis=(0, 1)))
            return loss, (updated.get("batch_stats", {}), normalizers, *watched)

        (loss, aux), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        batch_stats, normalizers, z, scores, softmax = aux
        bound = losses.mutual_information_bound(softmax, num_negatives=negatives)  # [P]
        others = None if in_batch else index[:, 1:] != y[:, None]
        top1 = _top1(scores, others)
        bound, top1 = pmean((bound, top1), axis_name)
        metrics = {
            "loss": loss,
            "contrastive_top1": top1,
            "mi_bound": jnp.mean(bound),
            **{f"mi_bound_{views[i]}_{views[j]}": bound[p] for p, (i, j) in enumerate(pairs)},
            "grad_norm": optax.tree.norm(grads),
        }
        bank = state.bank
        if not in_batch:  # after the scores: they have seen the bank as it was
            bank = update_bank(
                bank,
                z,
                y,
                momentum=settings.bank_momentum,
                first=first_row(bank, num_examples=num_examples, axis_name=axis_name),
                axis_name=axis_name,
            )
        new = apply_gradients(state, grads, batch_stats, tx, bank=bank, normalizers=normalizers)
        return new, metrics

    return Method(init, train_step, embed_views(net, split, views), crops)


def run_name(config: Any) -> str:
    """What tells runs apart in the results table: the number of views above two, and the graph.

    Example:
        >>> import jssl
        >>> config = jssl.config.base('cmc', preset='v1')
        >>> config.cmc.update(views=('l', 'ab', 'depth'), graph='full')
        >>> run_name(config)
        ', 3 views, full graph'
    """
    views, graph = (
        len(config.cmc.views),
        "core view" if config.cmc.graph == "core" else "full graph",
    )
    return f", {views} views, {graph}" if views > 2 else ""


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    colours="it splits a picture into the channels of Lab or into modalities",
    state=State,
    num_crops=1,  # the views are parts of it
    run_name=run_name,
    linear_preset="cmc",
    linear_variants={"v3": "cmc_wide", "alexnet": "cmc_alexnet"},
    data=DataHooks(
        device_crops=lambda config: bool(extra_fields(config)), extra_fields=extra_fields
    ),
)
