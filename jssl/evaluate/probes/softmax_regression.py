"""The linear probe on cached features: softmax regression by SGD, in seconds.

    minimise over W, b:   mean_i [ -ln softmax(W^T x_i + b)_{y_i} ] + wd/2 (|W|^2 + |b|^2)

The papers' protocol, which augments the training images, is in `jssl.evaluate.probes.linear_sgd`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import losses
from jssl.errors import UserError
from jssl.metrics._arrays import check_examples
from jssl.types import Array, PyTree


class LinearHead(NamedTuple):
    """A linear classifier: logits = features @ kernel + bias.

    Attributes:
        kernel: float32 [D,K].
        bias: float32 [K].
    """

    kernel: Array
    bias: Array


class LinearFit(NamedTuple):
    """The result of `fit_linear`.

    Attributes:
        head: the classifier after the last epoch, for the given features.
        learning_rate: the initial one, before the cosine.
        losses: float32 [epochs], mean training loss of each epoch in nats.
    """

    head: LinearHead
    learning_rate: float
    losses: np.ndarray


def logits_of(head: LinearHead, features: Array | np.ndarray) -> Array:
    """Computes features @ kernel + bias: [M,D] -> float32 [M,K]."""
    product = jnp.matmul(features, head.kernel, precision=jax.lax.Precision.HIGHEST)
    return product + head.bias[None, :]


def sgd(*, momentum: float, nesterov: bool, weight_decay: float) -> optax.GradientTransformation:
    """SGD without the learning rate: v <- momentum v + g + wd w, as in torch."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.trace(momentum, nesterov=nesterov)
    )


def sgd_step(
    tx: optax.GradientTransformation,
    head: LinearHead,
    opt_state: PyTree,
    features: Array,
    labels: Array,
    learning_rate: Array,
) -> tuple[LinearHead, PyTree, Array]:
    """Updates a head on a batch [B,D], [B]; also returns the loss before the update, float32 []."""

    def loss_fn(head: LinearHead) -> Array:
        return jnp.mean(losses.cross_entropy(logits_of(head, features), labels))

    loss, grads = jax.value_and_grad(loss_fn)(head)
    direction, opt_state = tx.update(grads, opt_state, head)
    head = jax.tree.map(lambda w, d: w - learning_rate * d, head, direction)
    return head, opt_state, loss


def fit_linear(
    features: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    num_classes: int,
    epochs: int = 100,
    batch_size: int = 256,
    learning_rate: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    standardize: bool = True,
    seed: int = 0,
) -> LinearFit:
    """Fits a linear classifier to cached features: no augmentation, one compiled scan.

    SGD from zero logits, in a new order each epoch (an incomplete batch is dropped), with a cosine
    to 0 over all steps and no warm-up. Compiled once for each shape and setting.

    Args:
        features: float [M,D], of the train split.
        labels: int [M] in [0, num_classes).
        num_classes: K.
        epochs: passes over the features.
        batch_size: B, at most M.
        learning_rate: initial; None for 1 / L, with L = lambda_max(E[x x^T]) / 2 the Lipschitz
            constant of the gradient (x with a 1 for the bias), from power iteration: stable
            without a search for standardised features of any width, scale and correlation,
            raw pixels too.
        momentum: in [0, 1).
        nesterov: Nesterov's momentum.
        weight_decay: wd, of kernel and bias, before the standardisation is folded in.
        standardize: subtract the mean and divide by the standard deviation of each dimension, of
            these M training features only; both are folded into the returned head.
        seed: of the order.

    Returns:
        A `LinearFit`.

    Raises:
        UserError: labels outside the classes, features not finite, or a loss that diverged.
        ValueError: wrong shapes.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [9.0], [10.0]]), np.array([0, 0, 1, 1])
        >>> head = fit_linear(x, y, num_classes=2).head
        >>> linear_accuracy(head, np.array([[2.0], [8.0]]), np.array([0, 1]))
        {'top1': 1.0, 'correct': 2, 'count': 2}

    Reference: zero-initialised logits, Nesterov and cosine without warm-up as in SimCLR's linear
        evaluation, https://arxiv.org/abs/2002.05709, appendix B.6.
    """
    check_examples("The linear probe", features, labels, num_classes)
    if epochs < 1 or batch_size < 1:
        raise UserError(
            f"The linear probe needs at least 1 epoch and batch size 1, found epochs={epochs} "
            f"and batch_size={batch_size}. Type --config.final.linear_epochs=100."
        )
    head, rate, history = _fit(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jax.random.key(seed),
        0.0 if learning_rate is None else learning_rate,
        momentum,
        weight_decay,
        num_classes=num_classes,
        epochs=int(epochs),
        batch_size=min(batch_size, len(features)),
        nesterov=nesterov,
        standardize=standardize,
        choose_rate=learning_rate is None,
    )
    history = np.asarray(history)
    if not np.isfinite(history).all():
        raise UserError(
            f"The linear probe diverged at a learning rate of {float(rate):g} (loss not finite in "
            f"epoch {int(np.argmin(np.isfinite(history))) + 1}). Pass a smaller learning_rate, or "
            "None to choose it automatically."
        )
    return LinearFit(head, float(rate), history)


_STATIC = ("num_classes", "epochs", "batch_size", "nesterov", "standardize", "choose_rate")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _fit(features, labels, key, rate, momentum, weight_decay, *, num_classes, epochs, batch_size,
         nesterov, standardize, choose_rate):  # fmt: skip
    M, D = features.shape
    mean, std = jnp.zeros((1, D)), jnp.ones((1, D))
    if standardize:
        mean, std = jnp.mean(features, axis=0)[None, :], jnp.std(features, axis=0)[None, :]
        std = jnp.where(std > 1e-6 * jnp.abs(mean), std, 1.0)  # a constant's std is rounding
    x = (features - mean) / std
    if choose_rate:
        rate = 2.0 / _largest_eigenvalue(x)
    steps = M // batch_size
    tx = sgd(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    head = LinearHead(jnp.zeros((D, num_classes)), jnp.zeros((num_classes,)))

    def one_step(carry, inputs):
        head, opt_state = carry
        rows, step = inputs
        progress = step.astype(jnp.float32) / (epochs * steps)
        decayed = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        head, opt_state, loss = sgd_step(tx, head, opt_state, x[rows], labels[rows], decayed)
        return (head, opt_state), loss

    def one_epoch(carry, epoch):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), M)
        rows = order[: steps * batch_size].reshape(steps, batch_size)
        carry, loss = jax.lax.scan(one_step, carry, (rows, epoch * steps + jnp.arange(steps)))
        return carry, jnp.mean(loss)

    (head, _), history = jax.lax.scan(one_epoch, (head, tx.init(head)), jnp.arange(epochs))
    kernel = head.kernel / std.T
    shift = jnp.matmul(mean, kernel, precision=jax.lax.Precision.HIGHEST)[0]
    return LinearHead(kernel, head.bias - shift), rate, history


def _largest_eigenvalue(x: Array, iterations: int = 50) -> Array:
    """Largest eigenvalue of the second moment of x with a 1 appended (bias), by power iteration."""
    M, D = x.shape
    v = jax.random.normal(jax.random.key(0), (D + 1,))

    def multiply(v: Array) -> Array:
        projected = x @ v[:D] + v[D]
        return jnp.append(projected @ x, jnp.sum(projected)) / M

    v = jax.lax.fori_loop(0, iterations, lambda _, v: multiply(v / jnp.linalg.norm(v)), v)
    return jnp.linalg.norm(v)


def linear_accuracy(head: LinearHead, features: Array, labels: Array) -> dict[str, Any]:
    """Computes the accuracy of a linear classifier.

    Args:
        head: from `fit_linear`.
        features: float [M,D].
        labels: int [M] in [0,K).

    Returns:
        `top1` in [0, 1], `correct` and `count` as integers, and `top5` if K >= 5. Ties count as
        wrong, see `jssl.losses.top_k_correct`.

    Raises:
        UserError, ValueError: as `fit_linear`.

    Example:
        >>> head = LinearHead(jnp.eye(2), jnp.zeros(2))
        >>> linear_accuracy(head, np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([0, 0]))
        {'top1': 0.5, 'correct': 1, 'count': 2}
    """
    check_examples("The linear probe", features, labels, head.kernel.shape[1])
    return count_right(head, jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.int32))


def count_right(head: LinearHead, features: Array, labels: Array) -> dict[str, Any]:
    """Computes `linear_accuracy` without checking the arrays."""
    first, fifth = _correct(head, features, labels)
    correct, count = int(np.sum(first)), len(labels)
    result: dict[str, Any] = {"top1": correct / count, "correct": correct, "count": count}
    if head.kernel.shape[1] >= 5:
        result["top5"] = int(np.sum(fifth)) / count
    return result


@jax.jit
def _correct(head: LinearHead, features: Array, labels: Array) -> tuple[Array, Array]:
    logits = logits_of(head, features)
    K = logits.shape[1]
    first, fifth = (losses.top_k_correct(logits, labels, k=min(k, K)) for k in (1, 5))
    return first, fifth
