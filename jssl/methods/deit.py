"""DeiT: a Vision Transformer from ImageNet alone, and distillation through attention.

Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877. Details from the official code,
https://github.com/facebookresearch/deit (timm 0.3.2). With the logits Z_s and Z_t of student and
teacher, softmax psi, and targets y that label smoothing, Mixup and CutMix have made soft:

    none   CE(psi(Z_s), y)
    soft   (1 - lambda) CE(psi(Z_s), y) + lambda tau^2 KL(psi(Z_s / tau), psi(Z_t / tau))
    hard   (1 - lambda) CE(psi(Z_s), y) + lambda CE(psi(Z_s), argmax Z_t)          lambda = 1/2

With `model.distillation_token` the second term's Z_s comes from a head of its own on that token,
and what is judged is the mean of both heads' LOGITS (the official code; the paper adds softmax
outputs). Without it both terms see the class token's head, as in the lecture.

The teacher is the network of any workdir whose method names `logits`. It lies in the state, is
evaluated without noise and with its running statistics, on the same cropped, erased and mixed
pixels that the student sees, normalised in its own way.
"""

import json
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jssl import augment, losses, methods, models
from jssl.errors import UserError
from jssl.methods import _mixed
from jssl.methods._common import (
    apply_gradients,
    blank_batch,
    check_make,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods._mixed import mixed_inputs
from jssl.methods.spec import DataHooks, MethodSpec, OtherRun
from jssl.models.heads import Linear
from jssl.parallel.collectives import pmean
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import (
    Setting,
    below_one,
    choice,
    count,
    flag,
    fraction,
    natural,
    non_negative,
    positive,
    text,
)
from jssl.state import ema
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # 0: as many as the data set has
    "distillation": choice("none", "soft", "hard"),
    "weight": fraction(0.5),  # lambda; the paper's soft distillation has 0.1
    "temperature": positive(1.0),  # tau of soft distillation; the paper's is 3
    "reduction": choice("batchmean", "official"),  # of soft distillation; official: K times smaller
    "teacher": text(""),  # workdir of a trained network
    "teacher_config": text(""),  # its settings; filled in from `teacher` when a run is built
    "untrained_teacher": flag(False),  # only to try the code: no `teacher`, random weights
    "start_from": text(""),  # older name of config.init_from, whose positions are interpolated
    "label_smoothing": below_one(0.1),
    "mixup_alpha": non_negative(0.8),  # 0: no Mixup
    "cutmix_alpha": non_negative(1.0),  # 0: no CutMix
    "mix_groups": count(4),  # of the global batch, each with its lambda: the official code's GPUs
    "erasing_p": fraction(0.25),  # 0: no random erasing
    "repeated_augmentation": count(3),  # views of an image, a third of the images an epoch; 1: off
    "ema_decay": below_one(0.0),  # of the averaged weights that are judged; 0: no average
}


@flax.struct.dataclass
class State(TrainState):
    """State of DeiT, besides the fields of every method.

    Attributes:
        teacher: state of the teacher, without its optimiser; {} without distillation.
        average: float32, the moving average of `params`; {} where ema_decay is 0.
    """

    teacher: PyTree
    average: PyTree


class Net(nn.Module):
    """Encoder and classifiers: images -> (class logits, distillation logits, h, intermediates)."""

    encoder: nn.Module
    classifier: nn.Module
    classifier_dist: nn.Module | None

    def __call__(self, images: Array, train: bool, rows: Array | None = None):
        h, named = models.encode(self.encoder, images, train=train, rows=rows)
        logits = self.classifier(h)
        if self.classifier_dist is None:
            return logits, logits, h, {**named, "logits": logits}
        distilled = self.classifier_dist(named["distillation_token"])
        both = {"class_logits": logits, "distillation_logits": distilled}
        return logits, distilled, h, {**named, **both, "logits": (logits + distilled) / 2}


def make_net(config: ConfigDict, axis_name: str | None) -> Net:
    """The network of a config; classifiers start from N(0, .02) as all of the ViT's kernels."""

    def classifier() -> Linear:
        return Linear(config.deit.num_classes, kernel_init=nn.initializers.normal(0.02))

    encoder = models.build(config.model, axis_name=axis_name, dtype=jnp.dtype(config.dtype))
    return Net(encoder, classifier(), classifier() if config.model.distillation_token else None)


def run_name(config: ConfigDict) -> str:
    """Returns the name of a run in a table of results: the kind of distillation, the teacher."""
    kind, teacher = config.deit.distillation, config.deit.teacher_config
    if kind == "none":
        return ", no teacher"
    network = f" from {json.loads(teacher)['model']['name']}" if teacher else ""
    return f", {kind} distillation{network}"


def check_token(config: ConfigDict) -> None:
    """Refuses to train a distillation token without a teacher; published weights have none."""
    if config.deit.distillation == "none" and config.model.distillation_token:
        raise UserError(
            "A distillation token learns from a teacher: type "
            "--config.model.distillation_token=False or --config.deit.distillation=hard."
        )


def has_teacher(config: ConfigDict) -> bool:
    """Whether the teacher is read from a workdir.

    Raises:
        UserError: distillation without a teacher, or a token that would not learn.
    """
    settings = config.deit
    check_token(config)
    if settings.distillation != "none" and not (settings.teacher or settings.untrained_teacher):
        raise UserError(
            f"deit.distillation='{settings.distillation}' learns from a trained network, and "
            "deit.teacher is empty: expected the workdir of one. Type "
            "--config.deit.teacher=WORKDIR, or --config.deit.distillation=none."
        )
    return settings.distillation != "none" and bool(settings.teacher)


def resolve(config: ConfigDict, teacher: ConfigDict) -> None:
    """Keeps the settings of the teacher, so that a run can be read without its workdir."""
    config.deit.teacher_config = teacher.to_json()


def put_teacher(config: ConfigDict, state: State, teacher: TrainState) -> State:
    """Puts the trained teacher into the first state."""
    return state.replace(teacher=_without_optimiser(config, teacher))


def _without_optimiser(config: ConfigDict, teacher: TrainState) -> TrainState:
    """Drops the teacher's optimiser, step, key and its own teacher."""
    own = methods.get(json.loads(config.deit.teacher_config)["method"])
    others: dict[str, Any] = {other.field: {} for other in own.other_runs}
    return teacher.replace(opt_state={}, key=jnp.int32(0), step=jnp.int32(0), **others)


def make_teacher(config: ConfigDict, lengths: RunLengths) -> tuple[Method, ConfigDict] | None:
    """Makes the teacher's pure functions and reads its settings; None without distillation.

    Raises:
        UserError: a distillation or teacher that cannot be.
    """
    settings = config.deit
    if settings.distillation == "none":
        return None
    if not settings.teacher_config:
        raise UserError(
            f"deit.distillation='{settings.distillation}' needs the settings of its teacher: type "
            "--config.deit.teacher=WORKDIR; in a program call jssl.run.build.resolve(config)."
        )
    own = ConfigDict(json.loads(settings.teacher_config))
    classes = own[own.method].get("num_classes")
    if classes != settings.num_classes:
        raise UserError(
            f"The teacher '{settings.teacher}' of method '{own.method}' has {classes} classes, the "
            f"student {settings.num_classes}: expected a classifier of the same data set."
        )
    # It is never trained: no optimiser, and the lengths of the student's run do for it.
    return methods.get(own.method).make(own, optax.identity(), lengths), own


def make_inputs(config: ConfigDict, axis_name: str | None) -> Any:
    """Makes `(key, batch) -> (x, targets)`; both networks see x."""
    inputs = mixed_inputs(config, config.deit, axis_name)
    return lambda key, batch: inputs(jax.random.split(key, 3), batch)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of DeiT.

    Args:
        config: from `jssl.config.base('deit', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, `base_loss` (soft-target cross entropy, nats),
        `train_top1` on the augmented images against the unmixed label, `grad_norm`; with a
        teacher `distillation_loss` and `agreement`, the share of images to which student and
        teacher give the same class. `embed` names the `logits`.
    """
    check_make("deit", config, lengths, SETTINGS)
    settings = config.deit
    teacher = make_teacher(config, lengths)
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)
    inputs = make_inputs(config, axis_name)

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=False)
        teacher_state: PyTree = {}
        if teacher is not None:
            blank = blank_batch(teacher[1], 1)
            untrained = teacher[0].init(jax.random.fold_in(key, 1), blank)
            teacher_state = _without_optimiser(config, untrained)
        average = variables["params"] if settings.ema_decay else {}
        return first_state(State, key, variables, tx, teacher=teacher_state, average=average)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        check_token(config)
        key, drop_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x, targets = inputs(key, batch)

        def loss_fn(params, examples, numbers):
            x, targets, labels = examples
            teacher_logits = None
            if teacher is not None:
                pixels = augment.denormalize(x, augment.statistics_of(config.augment, x.shape[-1]))
                teacher_logits = teacher[0].embed(state.teacher, pixels)[1]["logits"]
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, distilled, _, _), updated = net.apply(
                variables, x, train=True, rows=numbers,
                rngs={"stochastic_depth": drop_key}, mutable=["batch_stats"],
            )  # fmt: skip
            base = jnp.mean(losses.cross_entropy(logits, targets))
            top1 = losses.top_k_correct(logits, labels, k=1)
            logged = {"base_loss": base, "train_top1": jnp.mean(top1)}
            loss = base
            if teacher_logits is not None:
                distillation = jnp.mean(distillation_loss(distilled, teacher_logits))
                loss = (1 - settings.weight) * base + settings.weight * distillation
                same = jnp.argmax(distilled, axis=1) == jnp.argmax(teacher_logits, axis=1)
                logged |= {"distillation_loss": distillation, "agreement": jnp.mean(same * 1.0)}
            return loss, (updated.get("batch_stats", {}), logged)

        (loss, (batch_stats, logged)), grads = accumulated_value_and_grad(
            loss_fn, state.params, (x, targets, batch["label"]), accumulate=accumulate,
            axis_name=axis_name,
        )  # fmt: skip
        new = apply_gradients(state, grads, batch_stats, tx)
        if settings.ema_decay:
            average = ema(state.average, new.params, momentum=settings.ema_decay)
            new = new.replace(average=average)
        metrics = {"loss": loss, **pmean(logged, axis_name), "grad_norm": optax.tree.norm(grads)}
        return new, metrics

    def distillation_loss(logits: Array, teacher_logits: Array) -> Array:
        if settings.distillation == "hard":
            return losses.hard_distillation(logits, teacher_logits)
        return losses.soft_distillation(
            logits,
            teacher_logits,
            temperature=settings.temperature,
            reduction=settings.reduction,
        )

    def embed(state: State, images: Array) -> tuple[Array, dict[str, Array]]:
        params = state.average if settings.ema_decay else state.params
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs: Any = net.apply(variables, prepare(images), train=False)
        _, _, h, named = outputs
        return h, named

    return Method(init, train_step, embed, views)


TEACHER = OtherRun("teacher", has_teacher, resolve, put_teacher, field="teacher")
SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    labels="required",
    has_classifier=True,
    accumulates=True,
    averaged=("average", "batch_stats"),
    other_runs=(TEACHER,),
    data=DataHooks(order=_mixed.repeated),
    run_name=run_name,
)
