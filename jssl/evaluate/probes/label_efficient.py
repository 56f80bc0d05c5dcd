"""CPC v2's label-efficient classifier: on the map of the whole image, with few labels.

The encoder, which was trained on patches, is applied to whole images; a residual network follows on
its map [B,h,w,D], then the mean over positions and a linear layer. First the encoder is frozen,
then everything is fine-tuned. Hénaff et al., https://arxiv.org/abs/1905.09272, section 4.2: 11
blocks of 4096 maps with bottlenecks of 1024, on 14x14; 1, 2, 5, 10, 20, 50 and 100 % of the labels.
The paper tunes learning rates and lengths for each fraction; tune them here too. The norm of the
blocks is not published: here it is that of the encoder, GroupNorm with one group.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import augment, data, losses
from jssl.data import Rows as Rows
from jssl.data.subset import label_subset
from jssl.errors import UserError
from jssl.evaluate.embed import embed_source
from jssl.models.conv import Conv
from jssl.types import Array, PyTree

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the paper


class MapClassifier(nn.Module):
    """Bottleneck blocks on a map, their mean, a linear layer: [B,h,w,D] -> float32 [B,K].

    Attributes:
        num_classes: K.
        blocks: 11 in the paper.
        bottleneck: 1024 in the paper.
    """

    num_classes: int
    blocks: int = 11
    bottleneck: int = 1024

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.blocks):
            y = x
            for part, (width, size) in enumerate(
                ((self.bottleneck, 1), (self.bottleneck, 3), (x.shape[-1], 1))
            ):
                y = Conv(width, (size, size), name=f"block{i}_conv{part}")(y)
                y = nn.GroupNorm(num_groups=1, name=f"block{i}_norm{part}")(y)
                y = nn.relu(y) if part < 2 else y
            x = nn.relu(x + y)
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="linear")(pooled)


class EfficientFit(NamedTuple):
    """The result of `fit_efficient`.

    Attributes:
        encoder, head: parameters after fine-tuning.
        rows: int [n], the labelled examples.
        frozen: scores on the test split after the first phase, `top1`, `correct`, `count`.
        finetuned: the same after the second.
    """

    encoder: PyTree
    head: PyTree
    rows: np.ndarray
    frozen: dict[str, Any]
    finetuned: dict[str, Any]


def fit_efficient(
    whole_map: Callable[[PyTree, Array], Array],
    encoder: PyTree,
    train_source: Any,
    test_source: Any,
    *,
    labels: Any,
    fraction: float,
    size: int,
    blocks: int = 11,
    bottleneck: int = 1024,
    epochs: tuple[float, float] = (100.0, 50.0),
    learning_rates: tuple[float, float] = (5e-4, 2e-4),
    batch_size: int = 256,
    train_transform: Callable | None = None,
    test_transform: Callable | None = None,
    crop_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> EfficientFit:
    """Trains the classifier with the encoder frozen, then both.

    Adam, cosine to 0 in each phase, crop and flip on the device.

    Args:
        whole_map: `(encoder, images [B,size,size,3] in [0, 1]) -> [B,h,w,D]`, differentiable; of
            CPC: `jssl.methods.cpc.whole_map(config)`.
        encoder: its parameters; of CPC: `state.average`. Not changed.
        train_source, test_source: labelled examples, see `jssl.data.Source`.
        labels: int [M] of the whole train source.
        fraction: of the labels, see `label_subset`.
        size: of the images in pixels.
        blocks, bottleneck: of `MapClassifier`.
        epochs: of both phases, over the labelled examples.
        learning_rates: initial, of each phase.
        batch_size: at most the number of labelled examples.
        train_transform, test_transform: on the host.
        crop_options: replace options of the recipe `crop_flip`.
        seed: of subset, order, crops and initialisation.

    Returns:
        An `EfficientFit`.

    Raises:
        UserError: a fraction outside (0, 1], or a non-finite loss.

    Reference: Hénaff et al., https://arxiv.org/abs/1905.09272, section 4.2.
    """
    rows = label_subset(labels, fraction=fraction, seed=seed)
    subset = Rows(train_source, rows)
    batch_size = min(batch_size, len(subset))
    net = MapClassifier(train_source.num_classes, blocks, bottleneck)
    key = jax.random.key(seed)
    shape = jax.eval_shape(whole_map, encoder, jnp.zeros((1, size, size, 3))).shape
    head = net.init(key, jnp.zeros(shape))["params"]
    views = augment.make_views("crop_flip", size=size, **(crop_options or {}))
    scores = []
    for phase, (count, rate) in enumerate(zip(epochs, learning_rates, strict=True)):
        steps = max(1, round(count * (len(subset) // batch_size)))
        tx = optax.adam(optax.cosine_decay_schedule(rate, steps))
        encoder, head = _train(
            whole_map, net, encoder, head, tx, views, subset, jax.random.fold_in(key, phase),
            steps=steps, batch_size=batch_size, frozen=phase == 0, transform=train_transform,
            seed=seed + phase,
        )  # fmt: skip
        scores.append(_score(whole_map, net, encoder, head, test_source, test_transform))
    return EfficientFit(encoder, head, rows, *scores)


def _train(whole_map, net, encoder, head, tx, views, subset, key, *, steps, batch_size, frozen,
           transform, seed):  # fmt: skip
    def loss_fn(trained: PyTree, fixed: PyTree, images: Array, labels: Array) -> Array:
        params = {**fixed, **trained}
        logits = net.apply({"params": params["head"]}, whole_map(params["encoder"], images))
        return jnp.mean(losses.cross_entropy(logits, labels))

    @jax.jit
    def step(trained, fixed, opt_state, batch, i):
        x = augment.batch_views(views, jax.random.fold_in(key, i), batch["image"], jnp.int32(0))
        loss, grads = jax.value_and_grad(loss_fn)(trained, fixed, x[0], batch["label"])
        updates, opt_state = tx.update(grads, opt_state, trained)
        return optax.apply_updates(trained, updates), opt_state, loss

    trained, fixed = {"head": head}, {"encoder": encoder}
    if not frozen:
        trained, fixed = {**trained, **fixed}, {}
    opt_state, loss = tx.init(trained), jnp.float32(0)
    batches = data.train_batches(subset, batch_size=batch_size, seed=seed, transform=transform)
    with contextlib.closing(batches):
        for i in range(steps):
            batch = next(batches)
            arrays = {name: batch[name] for name in ("image", "label")}
            trained, opt_state, loss = step(trained, fixed, opt_state, arrays, np.int32(i))
    if not np.isfinite(loss):
        raise UserError(
            f"The label-efficient classifier diverged (loss {float(loss)}): give smaller "
            "learning_rates."
        )
    params = {**fixed, **trained}
    return params["encoder"], params["head"]


def _score(whole_map, net, encoder, head, source, transform) -> dict[str, Any]:
    @jax.jit
    def logits(state: PyTree, images: Array) -> Array:
        maps = whole_map(state["encoder"], augment.to_float(images))
        return net.apply({"params": state["head"]}, maps)

    state = {"encoder": encoder, "head": head}
    outputs, labels, _ = embed_source(logits, state, source, batch_size=256, transform=transform)
    correct = int(np.sum(losses.top_k_correct(jnp.asarray(outputs), jnp.asarray(labels), k=1)))
    return {"top1": correct / len(labels), "correct": correct, "count": len(labels)}
