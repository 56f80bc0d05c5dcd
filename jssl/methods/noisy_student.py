"""Noisy Student: self-training in which the student is noised and the teacher is not.

Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252. Details from the official code,
https://github.com/google-research/noisystudent. The lecture's algorithm, with n labelled images x,
m unlabelled images x~ and l the cross entropy:

    1  teacher   minimises  1/n sum l(y, f_noised(x))
    2  labels    y~ = f(x~), by the teacher without noise: averaged weights, plain crop
    3  student   minimises  1/n sum l(y, f_noised(x)) + 1/m sum l(y~, f_noised(x~)), no smaller
    4  the student is the next teacher: to 2

This file is the step of 1 and 3; `jssl.run.stages` goes from one to the next. A student's step
makes ONE pass over labelled and unlabelled images together, so that batch statistics are joint.
Noise is RandAugment, dropout and stochastic depth, drawn for each image by its number in the
global batch: labelled images come first, then the unlabelled ones of each.

The official code weighs the unlabelled mean by the ratio of unlabelled to labelled images, so that
every image counts alike: `weighting='ratio'`; the lecture's two means count alike: 'lecture'.
Its training begins with the average of weights AND of running statistics, which also judges.
"""

import re
from typing import Any

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
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import DataHooks, MethodSpec
from jssl.models.efficientnet import EfficientNet, classifier_init
from jssl.models.heads import Linear
from jssl.models.noise import dropout, row_numbers
from jssl.models.plain import classifier_input
from jssl.parallel.collectives import axis_size, pmean
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import (
    NATURAL,
    Rule,
    Setting,
    below_one,
    choice,
    either,
    flag,
    fraction,
    natural,
    positive,
    share,
    text,
)
from jssl.state import ema, warmup_momentum
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # 0: as many as the data set has
    # The driver's: {"stage": "teacher"|"label"|"student"|"fixres", ...changes of the config}; ():
    # this is one training.
    "stages": Setting((), Rule("stages in brackets", lambda v: isinstance(v, (tuple, list)))),
    "generation": natural(0),  # 0: the teacher, n: the n-th student; the driver sets it
    "teacher": text(""),  # workdir of a teacher made before, where `stages` begins with 'label'
    "pseudo_labels": text(""),  # file of a student's pseudo-labels; the driver sets it
    "allow_smaller_student": flag(False),
    "label_fraction": share(1.0),  # of every class, that keeps its labels; the rest is unlabelled
    "unlabeled_name": text(""),  # another data set as the unlabelled one; '': the rest of this one
    "unlabeled_split": text(""),
    "unlabeled_dir": text(""),
    "images_per_class": natural(130_000),  # to which predicted classes are balanced; 0: filter only
    "min_confidence": fraction(0.3),
    "upsample": flag(True),  # repeat the images of a class that has fewer
    "empty_classes": choice("stop", "allow"),  # a class without pseudo-labels: stop | allow
    "unlabeled_ratio": natural(3),  # unlabelled images for each labelled one; 0: supervised
    "weighting": choice("ratio", "lecture"),  # of the unlabelled mean: lecture (1) | ratio
    "targets": choice("soft", "hard"),  # pseudo-labels: soft | hard
    "temperature": positive(1.0),  # of soft ones: p^(1/T), normalised
    "label_smoothing": below_one(0.1),  # of labels and hard pseudo-labels, never of soft ones
    "dropout": below_one(0.5),  # before the classifier
    "ema_decay": below_one(0.9999),  # of weights and running statistics, with warm-up
    # For FixRes: n: the stem and the first n blocks are not trained; -1: all are.
    "frozen_blocks": Setting(-1, either(-1, NATURAL)),
}


@flax.struct.dataclass
class State(TrainState):
    """State of Noisy Student, besides the fields of every method.

    Attributes:
        average: float32, the moving average of `params`: the teacher, and what is judged.
        average_stats: that of `batch_stats`.
    """

    average: PyTree
    average_stats: PyTree


class Net(nn.Module):
    """Encoder, dropout, classifier: images [B,h,w,3] -> (logits [B,K], h [B,D], intermediates)."""

    encoder: nn.Module
    classifier: nn.Module
    dropout: float

    @nn.compact
    def __call__(self, images: Array, train: bool, rows: Array | None = None):
        noisy = train and not self.is_initializing()
        extra = {"rows": rows} if isinstance(self.encoder, EfficientNet) else {}
        h, named = self.encoder(images, train=train, **extra)
        kept = classifier_input(self.encoder, h)
        if noisy and self.dropout:
            assert rows is not None  # a step gives them
            kept = dropout(self.make_rng("dropout"), kept, rate=self.dropout, rows=rows)
        logits = self.classifier(kept)
        return logits, h, {**named, "logits": logits}


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config.

    Raises:
        UserError: blocks to freeze in a network that is no EfficientNet.
    """
    settings = config.noisy_student
    encoder = models.build(config.model, axis_name=axis_name, dtype=jnp.dtype(config.dtype))
    init: dict[str, Any] = {}
    if isinstance(encoder, EfficientNet):
        encoder = encoder.clone(frozen_blocks=settings.frozen_blocks)
        init = {"kernel_init": classifier_init}
    elif settings.frozen_blocks >= 0:
        raise UserError(
            f"noisy_student.frozen_blocks={settings.frozen_blocks} freezes blocks of an "
            f"EfficientNet, found model.name='{config.model.name}'. Type "
            "--config.noisy_student.frozen_blocks=-1."
        )
    return Net(encoder, Linear(settings.num_classes, **init), settings.dropout)


def check_drops(net: Net, config: Any) -> None:
    """Refuses microbatches in a network that would drop the same of each of them.

    Raises:
        UserError: dropout or stochastic depth inside an encoder that is no EfficientNet: it numbers
            the examples that it sees, and not those of the whole batch.
    """
    model = config.model
    drops = {key: model[key] for key in ("stochastic_depth", "dropout") if model[key]}
    if accumulate_of(config) > 1 and drops and not isinstance(net.encoder, EfficientNet):
        raise UserError(
            f"Noisy Student in microbatches (--config.accumulate={accumulate_of(config)}) drops by "
            f"example in an EfficientNet alone: found {drops} of '{model.name}', expected 0. Type "
            f"{' '.join(f'--config.model.{key}=0' for key in drops)}, or --config.accumulate=1."
        )


def joined(
    batch: Batch, axis_name: str | None, numbers: Array | None = None, accumulate: int = 1
) -> tuple[Array, Array]:
    """Returns labelled, then unlabelled images, with their indices in the global batch.

    Args:
        batch: `image` [B,...] and perhaps `unlabeled_image` [B,r,...].
        axis_name: the batch axis, None on one device.
        numbers: int32 [B], the indices of the labelled images, or [] of the first; by default B
            images on each device.
        accumulate: microbatches of a device, of which this is one.

    Returns:
        images [B(1+r),...] and int32 [B(1+r)].
    """
    labelled = batch["image"]
    B = len(labelled)
    rows = row_numbers(numbers, B, axis_name)
    if "unlabeled_image" not in batch:
        return labelled, rows
    unlabelled = batch["unlabeled_image"]
    r = unlabelled.shape[1]
    unlabelled = unlabelled.reshape(-1, *unlabelled.shape[2:])
    whole = B * accumulate * axis_size(axis_name)
    after = (whole + rows[:, None] * r + jnp.arange(r)[None]).reshape(-1)
    return jnp.concatenate([labelled, unlabelled]), jnp.concatenate([rows, after])


def sharpen(probs: Array, *, kind: str, temperature: float) -> Array:
    """Returns the student's targets: p^(1/T) normalised, which is softmax(logits / T), or one-hot.

    Args:
        probs: float [B,K], of the teacher.
        kind: 'soft' or 'hard'.
        temperature: T > 0, of soft ones.

    Returns:
        float32 [B,K].

    Example:
        >>> q = sharpen(jnp.array([[0.8, 0.2]]), kind='soft', temperature=0.5)
        >>> [round(float(p), 4) for p in q[0]]
        [0.9412, 0.0588]
    """
    if kind == "hard":
        return jax.nn.one_hot(jnp.argmax(probs, axis=1), probs.shape[1])
    log_p = jnp.log(jnp.maximum(probs.astype(jnp.float32), 1e-30))
    return jax.nn.softmax(log_p / temperature, axis=1)


def frozen(params: PyTree, blocks: int) -> PyTree:
    """Marks the frozen parameters: true for the stem and the first `blocks` blocks."""

    def is_frozen(path: Any, _: Array) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        block = re.match(r"encoder/(stem|block(\d+))_", name)
        return blocks >= 0 and block is not None and int(block[2] or -1) < blocks

    return jax.tree_util.tree_map_with_path(is_frozen, params)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of a teacher's or student's training.

    Args:
        config: from `jssl.config.base('noisy_student', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`. Its batches may hold `unlabeled_image` uint8 [B,r,H,W,3] and `unlabeled_probs`
        float32 [B,r,K]. Its step logs `loss`, `labelled_loss` (nats), `train_top1` on the noised
        labelled images, `ema_momentum`, `grad_norm`; with unlabelled images `unlabelled_loss`
        and `agreement`, how often the student says what the teacher does. `embed` is that of the
        averaged network in evaluation mode and names its `logits`.
    """
    check_make("noisy_student", config, lengths, SETTINGS)
    settings = config.noisy_student
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    check_drops(net, config)
    views, prepare = input_functions(config)
    embed = embed_function(net, prepare)

    def init(key: Array, batch: Batch) -> State:
        # Each generation from its own draw.
        key = jax.random.fold_in(key, settings.generation)
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        return first_state(
            State, key, variables, tx,
            average=variables["params"], average_stats=variables.get("batch_stats", {}),
        )  # fmt: skip

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key, *noise = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        rngs = dict(zip(("dropout", "stochastic_depth"), noise, strict=True))

        def loss_fn(params, batch, numbers):
            images, rows = joined(batch, axis_name, numbers, accumulate)
            x = prepare(views(key, images, rows)[0])
            B = len(batch["image"])
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, _, _), updated = net.apply(
                variables, x, train=True, rows=rows, rngs=rngs, mutable=["batch_stats"]
            )
            loss, logged = labelled_loss(logits[:B], batch["label"])
            if len(logits) > B:
                K = logits.shape[1]
                more, noted = unlabelled_loss(logits[B:], batch["unlabeled_probs"].reshape(-1, K))
                ratio = len(logits) // B - 1
                loss += (ratio if settings.weighting == "ratio" else 1.0) * more
                logged = {**logged, **noted}
            return loss, (updated.get("batch_stats", {}), logged)

        (loss, (batch_stats, logged)), grads = accumulated_value_and_grad(
            loss_fn, state.params, batch, accumulate=accumulate, axis_name=axis_name
        )
        still = frozen(state.params, settings.frozen_blocks)
        new = apply_gradients(state, grads, batch_stats, tx)
        params = jax.tree.map(lambda f, o, n: o if f else n, still, state.params, new.params)
        momentum = warmup_momentum(state.step, decay=settings.ema_decay)
        new = new.replace(
            params=params,
            average=ema(state.average, params, momentum=momentum),
            average_stats=ema(state.average_stats, batch_stats, momentum=momentum),
        )
        metrics = {
            "loss": loss,
            **pmean(logged, axis_name),
            "ema_momentum": momentum,
            "grad_norm": optax.tree.norm(grads),
        }
        return new, metrics

    def labelled_loss(logits: Array, labels: Array) -> tuple[Array, Metrics]:
        loss = losses.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        top1 = losses.top_k_correct(jax.lax.stop_gradient(logits), labels, k=1)
        loss = jnp.mean(loss)
        return loss, {"labelled_loss": loss, "train_top1": jnp.mean(top1)}

    def unlabelled_loss(logits: Array, probs: Array) -> tuple[Array, Metrics]:
        target = sharpen(probs, kind=settings.targets, temperature=settings.temperature)
        smoothing = settings.label_smoothing if settings.targets == "hard" else 0.0
        loss = jnp.mean(losses.cross_entropy(logits, target, label_smoothing=smoothing))
        same = jnp.argmax(logits, axis=1) == jnp.argmax(probs, axis=1)
        return loss, {"unlabelled_loss": loss, "agreement": jnp.mean(same.astype(jnp.float32))}

    def embed_average(state: State, images: Array):
        return embed(state.replace(params=state.average, batch_stats=state.average_stats), images)

    return Method(init, train_step, embed_average, views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    labels="required",
    averaged=("average", "average_stats"),
    data=DataHooks(pseudo_labels=True),
    accumulates=True,
)
