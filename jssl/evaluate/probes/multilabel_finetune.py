"""Fine-tuning of a whole network on images with several labels, as on the other transfer sets.

SimCLR, https://arxiv.org/abs/2002.05709, appendix B.8.1, after Kornblith et al.,
https://arxiv.org/abs/1805.08974: SGD with Nesterov momentum 0.9, batches of 256, cosine without
warm-up, random crops and flips only; a grid of learning rates and weight decays; weight decay is
divided by the learning rate. A network with random weights is trained twice as long, with a grid
of its own.

The loss for images with several labels is ours: the logistic loss of each class, summed over
classes. Its gradient with respect to a logit is p - y, as that of the cross entropy on the sets
with one label, so that the same learning rates fit.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import data, optim
from jssl.augment import to_float
from jssl.data import HostCrop
from jssl.errors import UserError
from jssl.evaluate.probes.voc_finetune import voc_loss
from jssl.methods.supervised import Net
from jssl.metrics.average_precision import mean_average_precision
from jssl.models.heads import Linear
from jssl.types import Array, PyTree

BATCH = 256
MOMENTUM = 0.9
TELL = 1000  # steps between two lines of progress


class Grid(NamedTuple):
    """The settings to choose from, and the length of a training.

    Attributes:
        rates: initial learning rates.
        decays: weight decays, before they are divided by the rate.
        steps: of batches of `BATCH` images.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    steps: int


def _spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(x) for x in np.logspace(low, high, count))


# kind of network -> its grid: SimCLR, appendices B.8.1 and B.8.2
GRIDS: dict[str, Grid] = {
    "trained": Grid(_spaced(-4, -1, 7), (0.0, *_spaced(-6, -3, 7)), 20_000),
    "untrained": Grid(_spaced(-3, 0, 7), _spaced(-5, -1.5, 8), 40_000),
}


class Tuning(NamedTuple):
    """A fine-tuning as pure functions, compiled once for all rates and decays.

    Attributes:
        first: `(key, params, batch_stats of the encoder) -> (params, batch_stats, momentum)`.
        step: `(params, batch_stats, momentum, images uint8 [B,H,W,3], labels int [B,K], key, rate,
            decay) -> (params, batch_stats, momentum, loss)`; `rate` is that of this step, `decay`
            is already divided by the first.
        score: `(params, batch_stats, images uint8 [B,H,W,3]) -> float32 [B,K]`.
    """

    first: Callable[..., tuple[PyTree, PyTree, PyTree]]
    step: Callable[..., tuple[PyTree, PyTree, PyTree, Array]]
    score: Callable[..., Array]


def make_tuning(
    encoder: Any, prepare: Callable[[Array], Array], *, num_classes: int, size: int
) -> Tuning:
    """Makes the functions for an encoder and a new linear classifier.

    Args:
        encoder: flax module, `(images, train) -> (features [B,D], intermediates)`.
        prepare: images float [B,H,W,3] in [0, 1] -> the encoder's input.
        num_classes: K.
        size: side of the images in pixels.

    Returns:
        A `Tuning`. Batch normalisation uses batch statistics in `step`, running ones in `score`.
        Weight decay leaves out normalisation and biases.
    """
    net = Net(encoder, Linear(num_classes))
    momentum = optax.trace(MOMENTUM, nesterov=True)

    def first(key: Array, params: PyTree, batch_stats: PyTree):
        drawn = net.init(key, jnp.zeros((1, size, size, 3)), train=False)["params"]
        params = {**drawn, "encoder": params}
        stats = {"encoder": batch_stats} if batch_stats else {}
        return params, stats, momentum.init(params)

    def step(params, batch_stats, state, images, labels, key, rate, decay):
        flip_key, depth_key, dropout_key = jax.random.split(key, 3)
        flipped = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        x = prepare(to_float(jnp.where(flipped, images[:, :, ::-1], images)))

        def loss_of(params):
            (logits, _, _), updated = net.apply(
                {"params": params, "batch_stats": batch_stats},
                x,
                train=True,
                rngs={"stochastic_depth": depth_key, "dropout": dropout_key},
                mutable=["batch_stats"],
            )
            return voc_loss(logits.astype(jnp.float32), labels), updated.get("batch_stats", {})

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        decays = optim.mask(optim.EXCLUDE_NORM_AND_BIAS, what="decay")(params)
        gradient = jax.tree.map(lambda g, p, on: g + decay * p * on, gradient, params, decays)
        updates, state = momentum.update(gradient, state)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        return params, stats, state, loss

    def score(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs: Any = net.apply(variables, prepare(to_float(images)), train=False)
        return outputs[0].astype(jnp.float32)

    return Tuning(jax.jit(first), jax.jit(step), jax.jit(score))


def cosine(step: int, *, rate: float, steps: int) -> float:
    """Returns the learning rate of a step: half a cosine from `rate` to 0.

    Example:
        >>> [round(cosine(step, rate=0.1, steps=4), 4) for step in (0, 2, 3)]
        [0.1, 0.05, 0.0146]
    """
    return 0.5 * rate * (1 + math.cos(math.pi * step / steps))


def finetune(
    tuning: Tuning,
    params: PyTree,
    batch_stats: PyTree,
    source: Any,
    *,
    size: int,
    rate: float,
    decay: float,
    steps: int,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[PyTree, PyTree] | None:
    """Trains all layers, and a new classifier, on one source.

    Args:
        tuning: of `make_tuning`.
        params, batch_stats: of the encoder; read only.
        source: with labels int [K] of 1, 0 and -1 (ignored).
        size: of a crop in pixels.
        rate: initial learning rate.
        decay: weight decay, before it is divided by the rate.
        steps: of batches of `BATCH` images, or of all images if there are fewer.
        seed: of all random numbers.
        progress: called every 1000 steps and at the end with (step, loss).

    Returns:
        Parameters and running statistics of the network; None if the loss was not finite.
    """
    key = jax.random.key(seed)
    first = jax.random.fold_in(key, steps)
    params, batch_stats, momentum = tuning.first(first, params, batch_stats)
    batches = data.train_batches(
        source,
        batch_size=min(BATCH, len(source)),
        seed=seed,
        transform=HostCrop(size, views=1, sampler="tf"),
    )
    try:
        for step in range(steps):
            batch = next(batches)
            params, batch_stats, momentum, loss = tuning.step(
                params,
                batch_stats,
                momentum,
                batch["image"][:, 0],
                batch["label"],
                jax.random.fold_in(key, step),
                cosine(step, rate=rate, steps=steps),
                decay / rate,
            )
            if (step + 1) % TELL == 0 or step + 1 == steps:
                if not math.isfinite(float(loss)):
                    return None
                if progress is not None:
                    progress(step + 1, float(loss))
    finally:
        batches.close()
    return params, batch_stats


def scores_of(
    tuning: Tuning, network: tuple[PyTree, PyTree], source: Any, transform: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Scores every image of a source once.

    Args:
        tuning: of `make_tuning`.
        network: of `finetune`.
        source: with labels int [K].
        transform: the evaluation crop.

    Returns:
        float32 [M,K] scores and int32 [M,K] labels.
    """
    scores, labels = [], []
    size = min(BATCH, len(source))
    for batch in data.eval_batches(source, batch_size=size, transform=transform):
        scores.append(np.asarray(tuning.score(*network, batch["image"]))[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    return np.concatenate(scores), np.concatenate(labels)


def select(
    score: Callable[[float, float], float | None],
    rates: Sequence[float],
    decays: Sequence[float],
) -> tuple[float, float, float | None]:
    """Selects a rate and a decay by their validation score.

    Args:
        score: (rate, decay) -> score; None if the training diverged. It is not called if there
            is nothing to select from.
        rates, decays: to select from.

    Returns:
        Rate, decay, score. Of equal scores the first; the score is None if there was one choice.

    Raises:
        UserError: every training diverged.

    Example:
        >>> select(lambda rate, decay: rate - decay, (0.1, 0.2), (0.0, 0.1))
        (0.2, 0.0, 0.2)
    """
    points = list(itertools.product(rates, decays))
    if len(points) == 1:
        return *points[0], None
    scored = [(value, point) for point in points if (value := score(*point)) is not None]
    if not scored:
        raise UserError(f"All {len(points)} fine-tunings diverged. Type a smaller --lr.")
    value, (rate, decay) = max(scored, key=lambda pair: pair[0])
    return rate, decay, value


def eleven_point_map(scores: Any, labels: Any) -> float:
    """Computes the 11-point mAP of `scores_of`.

    Example:
        >>> labels = np.array([[1, 0], [0, 1], [1, -1]])
        >>> eleven_point_map(labels + 0.5, labels)
        1.0
    """
    return mean_average_precision(scores, labels == 1, labels == -1, definition="voc2007")[0]
