"""Supervised training: cross entropy with label smoothing; baselines and teachers.

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, trained as the bag of tricks (He et al.,
2019, https://arxiv.org/abs/1812.01187) does: SGD with Nesterov momentum, warm-up and cosine.

With `config.init_from` it is fine-tuning: the encoder begins as that of another run's checkpoint,
and for a ViT deeper layers may move less (`layer_decay`), as BEiT's official code has it. Random
erasing, Mixup, CutMix and repeated augmentation are DeiT's (jssl/methods/_mixed.py), and off by
default.
"""

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import losses, models
from jssl.methods import _mixed
from jssl.methods._common import (
    apply_gradients,
    check_make,
    embed_function,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods._mixed import mixed_inputs
from jssl.methods.spec import DataHooks, LabelledPart, MethodSpec
from jssl.models.heads import Linear
from jssl.models.noise import dropout, row_numbers
from jssl.models.plain import PlainNet, classifier_input
from jssl.optim import scale_by_layer, scale_by_name
from jssl.parallel.collectives import pmean
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import Setting, count, defaults, natural, positive, share, text
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "num_classes": natural(0),  # 0: as many as the data set has
    **_mixed.SETTINGS,
    "label_fraction": share(1.0),  # share of every class that is trained and probed with
    "init_from": text(""),  # older name of config.init_from
    "head_lr": positive(1.0),  # the classifier learns at so many times the rate
    "held_out": natural(0),  # train examples that are not trained with, and are the test split
    "repeated_augmentation": count(1),  # views of an image, such as DeiT's 3: fewer images an epoch
    "layer_decay": share(1.0),  # of a ViT: layer i of L + 1 learns at decay^(L + 1 - i) of the rate
}


class Net(nn.Module):
    """Encoder and linear classifier: images [B,h,w,3] -> (logits [B,K], h [B,D], intermediates)."""

    encoder: nn.Module
    classifier: nn.Module

    def __call__(self, images: Array, train: bool, rows: Array | None = None):
        h, intermediates = models.encode(self.encoder, images, train=train, rows=rows)
        logits = self.classifier(self._drop(classifier_input(self.encoder, h), train, rows))
        return logits, h, {**intermediates, "logits": logits}

    def _drop(self, x: Array, train: bool, rows: Array | None) -> Array:
        """VGG drops the input of its last two dense layers, the classifier's too; AlexNet does not.

        Simonyan and Zisserman, ICLR 2015, https://arxiv.org/abs/1409.1556, section 3.1.
        """
        encoder = self.encoder
        vgg = isinstance(encoder, PlainNet) and not encoder.dropout_first
        if not train or not vgg or not encoder.dropout or self.is_initializing():
            return x
        rows = row_numbers(rows, len(x), encoder.axis_name)
        return dropout(self.make_rng("dropout"), x, rate=encoder.dropout, rows=rows)


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config; BEiT's fine-tuning has a head of N(0, 0.02^2) times 0.001."""
    encoder = models.build(config.model, axis_name=axis_name, dtype=jnp.dtype(config.dtype))
    init: dict[str, Any] = {}
    if config.model.get("vit_init") == "beit_finetune":
        init = {"kernel_init": nn.initializers.normal(2e-5)}
    return Net(encoder, Linear(config.supervised.num_classes, **init))


def labelled_part(config: Any) -> LabelledPart:
    """Returns the share of examples that keep their labels, and how many are held out."""
    return LabelledPart(config.supervised.label_fraction, config.supervised.held_out)


def run_name(config: Any) -> str:
    """Returns the name of a run in a table of results: the share of the labels."""
    s = config.supervised
    part = f", {100 * s.label_fraction:g} % labels" if s.label_fraction < 1 else ""
    return f"{part}, from scratch" if part and not config.init_from else part


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the pure functions of supervised training.

    Args:
        config: from `jssl.config.base('supervised', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (cross entropy, nats), `train_top1` in [0, 1] on the
        augmented images against the unmixed label, and `grad_norm`. `embed` names the `logits`
        among its intermediates.
    """
    check_make("supervised", config, lengths, SETTINGS)
    # a workdir of before may lack some
    settings = SimpleNamespace(**{**defaults(SETTINGS), **config.supervised})
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    decay = config.supervised.layer_decay
    if decay != 1:
        tx = optax.chain(
            tx,
            scale_by_layer(
                decay=decay, depth=net.encoder.depth if isinstance(net.encoder, models.ViT) else 0
            ),
        )
    if config.supervised.head_lr != 1:
        tx = optax.chain(tx, scale_by_name("^classifier/", factor=config.supervised.head_lr))
    views, prepare = input_functions(config)
    inputs = mixed_inputs(config, settings, axis_name)

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"], jnp.int32(0))[0]
        variables = make_net(config, None).init(key, prepare(images), train=True)
        return first_state(State, key, variables, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        # None of these is an image's key.
        keys = [jax.random.fold_in(key, 2**31 - i) for i in (1, 2, 3, 4)]
        drop_key, erase_key, mix_key, dropout_key = keys
        rngs = {"stochastic_depth": drop_key, "dropout": dropout_key}
        x, targets = inputs((key, erase_key, mix_key), batch)

        def loss_fn(params, examples, numbers):
            x, targets, labels = examples
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, _, _), updated = net.apply(
                variables, x, train=True, rows=numbers, rngs=rngs, mutable=["batch_stats"]
            )
            loss = losses.cross_entropy(logits, targets)
            top1 = losses.top_k_correct(logits, labels, k=1)
            return jnp.mean(loss), (updated.get("batch_stats", {}), jnp.mean(top1))

        (loss, (batch_stats, top1)), grads = accumulated_value_and_grad(
            loss_fn, state.params, (x, targets, batch["label"]), accumulate=accumulate,
            axis_name=axis_name,
        )  # fmt: skip
        metrics = {
            "loss": loss,
            "train_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        return apply_gradients(state, grads, batch_stats, tx), metrics

    return Method(init, train_step, embed_function(net, prepare), views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    state=State,
    num_crops=1,
    labels="required",
    has_classifier=True,
    accumulates=True,
    data=DataHooks(part=labelled_part, order=_mixed.repeated),
    run_name=run_name,
)
