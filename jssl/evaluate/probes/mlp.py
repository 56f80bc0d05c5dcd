"""The multilayer perceptron on cached features: two hidden layers, in a minute or two.

    h1 = relu(W1^T x + b1),   h2 = relu(W2^T h1 + b2),   minimise -ln softmax(W3^T h2 + b3)_y

As AlexNet's dense layers on its last convolution, with fewer units. It measures what features hold
beyond what a linear classifier finds: much, on those of a random network.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import losses
from jssl.errors import UserError
from jssl.evaluate.probes.softmax_regression import LinearHead, logits_of
from jssl.metrics._arrays import check_examples
from jssl.types import Array

# Fixed before any run, none was chosen by a score.
HIDDEN = (1024, 1024)
EPOCHS = 30
BATCH = 256
LEARNING_RATE = 1e-3
DROPOUT = 0.5  # AlexNet's


class MLP(NamedTuple):
    """A multilayer perceptron.

    Attributes:
        hidden: layers that are followed by a ReLU.
        head: the classifier of the last hidden layer.
    """

    hidden: tuple[LinearHead, ...]
    head: LinearHead


class MLPFit(NamedTuple):
    """The result of `fit_mlp`.

    Attributes:
        mlp: after the last epoch, for the given features.
        losses: float32 [epochs], mean training loss of each epoch in nats, with dropout.
    """

    mlp: MLP
    losses: np.ndarray


def hidden_of(mlp: MLP, features: Array | np.ndarray) -> Array:
    """Computes the last hidden layer, the input of `mlp.head`: [M,D] -> float32 [M,H]."""
    x = jnp.asarray(features, jnp.float32)
    for layer in mlp.hidden:
        x = jax.nn.relu(logits_of(layer, x))
    return x


def fit_mlp(
    features: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    num_classes: int,
    hidden: Sequence[int] = HIDDEN,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    dropout: float = DROPOUT,
    seed: int = 0,
) -> MLPFit:
    """Fits a multilayer perceptron to cached features by Adam: no augmentation, one compiled scan.

    The features are standardised by their own statistics, which are folded into the first layer.
    Hidden layers start from He's normal distribution and the classifier from zero; the learning
    rate falls to 0 by a cosine, without warm-up. An incomplete batch is dropped.

    Args:
        features: float [M,D], of the train split.
        labels: int [M] in [0, num_classes).
        num_classes: K.
        hidden: units of the hidden layers, at least one.
        epochs: passes over the features.
        batch_size: at most M.
        learning_rate: the initial one.
        dropout: share of the units of each hidden layer that a step leaves out, in [0, 1).
        seed: of the first weights, of the order and of the dropout.

    Returns:
        An `MLPFit`. `linear_accuracy(fit.mlp.head, hidden_of(fit.mlp, x), y)` scores it.

    Raises:
        UserError: labels outside the classes, features not finite, no epoch, or a loss that
            diverged.
        ValueError: wrong shapes, or no hidden layer.

    Example:
        >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # exclusive or
        >>> mlp = fit_mlp(x, np.array([0, 1, 1, 0]), num_classes=2, hidden=(32,), epochs=200).mlp
        >>> print(np.argmax(logits_of(mlp.head, hidden_of(mlp, x)), axis=1))
        [0 1 1 0]

    Reference: on the last convolution of a random AlexNet: Noroozi and Favaro, ECCV 2016,
        https://arxiv.org/abs/1603.09246, table 2, quoted by Caron et al., ECCV 2018.
    """
    check_examples("The multilayer perceptron", features, labels, num_classes)
    if not hidden or min(hidden) < 1:
        raise ValueError(f"A multilayer perceptron has hidden layers of units, found {hidden}.")
    if epochs < 1 or batch_size < 1:
        raise UserError(
            "The multilayer perceptron needs at least 1 epoch and batch size 1, found "
            f"epochs={epochs} and batch_size={batch_size}. Type --epochs={EPOCHS}."
        )
    mlp, history = _fit(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jax.random.key(seed),
        learning_rate,
        dropout,
        num_classes=num_classes,
        hidden=tuple(hidden),
        epochs=int(epochs),
        batch_size=min(batch_size, len(features)),
    )
    history = np.asarray(history)
    if not np.isfinite(history).all():
        raise UserError(
            f"The multilayer perceptron diverged at a learning rate of {learning_rate:g} (loss not "
            f"finite in epoch {int(np.argmin(np.isfinite(history))) + 1}). Pass a smaller one."
        )
    return MLPFit(mlp, history)


@functools.partial(jax.jit, static_argnames=("num_classes", "hidden", "epochs", "batch_size"))
def _fit(features, labels, key, rate, dropout, *, num_classes, hidden, epochs, batch_size):
    M, D = features.shape
    mean, std = jnp.mean(features, axis=0)[None, :], jnp.std(features, axis=0)[None, :]
    std = jnp.where(std > 1e-6 * jnp.abs(mean), std, 1.0)  # a constant's std is rounding
    steps = M // batch_size
    start, order_key, drop_key = jax.random.split(key, 3)
    mlp = _first_weights(start, (D, *hidden), num_classes)
    tx = optax.scale_by_adam()

    def one_step(carry, inputs):
        mlp, opt_state = carry
        rows, step = inputs
        x = (features[rows] - mean) / std
        keys = jax.random.split(jax.random.fold_in(drop_key, step), len(hidden))
        loss, grads = jax.value_and_grad(_loss)(mlp, x, labels[rows], keys, dropout)
        updates, opt_state = tx.update(grads, opt_state, mlp)
        decayed = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * step / (epochs * steps)))
        mlp = jax.tree.map(lambda w, u: w - decayed * u, mlp, updates)
        return (mlp, opt_state), loss

    def one_epoch(carry, epoch):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), M)
        rows = order[: steps * batch_size].reshape(steps, batch_size)
        carry, loss = jax.lax.scan(one_step, carry, (rows, epoch * steps + jnp.arange(steps)))
        return carry, jnp.mean(loss)

    (mlp, _), history = jax.lax.scan(one_epoch, (mlp, tx.init(mlp)), jnp.arange(epochs))
    first, *others = mlp.hidden
    kernel = first.kernel / std.T
    shift = jnp.matmul(mean, kernel, precision=jax.lax.Precision.HIGHEST)[0]
    folded = LinearHead(kernel, first.bias - shift)
    return MLP((folded, *others), mlp.head), history


def _first_weights(key, widths, num_classes):
    init = jax.nn.initializers.he_normal()
    keys = jax.random.split(key, len(widths) - 1)
    hidden = tuple(
        LinearHead(init(k, (m, n), jnp.float32), jnp.zeros((n,)))
        for k, m, n in zip(keys, widths[:-1], widths[1:], strict=True)
    )
    return MLP(hidden, LinearHead(jnp.zeros((widths[-1], num_classes)), jnp.zeros((num_classes,))))


def _loss(mlp, x, labels, keys, dropout):
    for layer, key in zip(mlp.hidden, keys, strict=True):
        x = jax.nn.relu(logits_of(layer, x))
        kept = jax.random.bernoulli(key, 1.0 - dropout, x.shape)
        x = jnp.where(kept, x / (1.0 - dropout), 0.0)
    return jnp.mean(losses.cross_entropy(logits_of(mlp.head, x), labels))
