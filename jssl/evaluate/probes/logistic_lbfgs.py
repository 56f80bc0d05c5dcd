"""L2-regularised logistic regression by L-BFGS on the device, for a grid of regularisers.

    minimise over W, b:   sum_i l(W^T x_i + b, y_i) + lambda/2 |W|^2      reduction 'sum'
                         mean_i l(W^T x_i + b, y_i) + lambda/2 |W|^2      reduction 'mean'

The bias is not penalised; l is the cross entropy of the softmax, or, with several labels, the sum
over classes of that of the sigmoid. scikit-learn's C is 1/lambda of 'sum', 1/(lambda M) of 'mean',
and twice that for the softmax of two classes, where it has one kernel w and this has -w/2, w/2.

The grid is fitted from the largest lambda to the smallest, each starting from the last solution. An
iteration reads X [M,D] twice, and nothing else of its size. It is fast for three reasons:

* L-BFGS uses P^-1, P = c Cov(x) + lambda I, as its initial inverse Hessian, not a multiple of I.
  With c the mean of p (1 - p) over examples and classes, P is close to the Hessian.
* Pairs (s, y) are kept for the next lambda': they become (s, y + (lambda' - lambda) s).
* The logits move along a line, Z + t X d, so that a line search does not read X.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl.errors import UserError
from jssl.evaluate.probes.softmax_regression import LinearHead
from jssl.metrics._arrays import check_examples
from jssl.types import Array

# Of SimCLR, appendix B.8, and BYOL, appendix D: 45 from 1e-6 to 1e5, equal steps of the logarithm.
REGULARIZERS: tuple[float, ...] = tuple(float(x) for x in np.logspace(-6, 5, 45))
REDUCTIONS = ("sum", "mean")
IGNORED = -1  # a multi-label entry that is ignored
MEMORY = 16  # pairs (s, y)
TRIALS = 25  # of a line search
SLOPE = 0.4  # a line search ends at this fraction of the initial slope


class LogisticPath(NamedTuple):
    """One classifier for each regulariser, in the given order.

    Attributes:
        heads: kernels float32 [R,D,K] and biases float32 [R,K], for the given features.
        regularizers: lambda, float64 [R].
        objectives: float64 [R], mean loss + lambda/2 |W|^2 with lambda on the scale of the mean.
        gradients: float64 [R], largest absolute entry of the gradient of that objective.
        iterations: int [R], of L-BFGS, since the previous fit.
    """

    heads: LinearHead
    regularizers: np.ndarray
    objectives: np.ndarray
    gradients: np.ndarray
    iterations: np.ndarray

    def head(self, row: int) -> LinearHead:
        """Returns the classifier of the row-th regulariser."""
        return LinearHead(self.heads.kernel[row], self.heads.bias[row])


def fit_logistic(
    features: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    num_classes: int,
    regularizers: Sequence[float] = REGULARIZERS,
    reduction: str = "mean",
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> LogisticPath:
    """Fits logistic regression for every regulariser.

    Compiled once for each shape, number of regularisers and number of iterations.

    Args:
        features: float [M,D].
        labels: int [M] in [0,K), one class each; or int [M,K] of 1, 0 and -1 (ignored), any
            number of classes each, one-vs-rest.
        num_classes: K.
        regularizers: lambda, each above 0, in any order.
        reduction: 'sum' or 'mean' of the losses, to which the penalty is added. The papers give
            the grid, but not which.
        tolerance: a fit ends when no entry of the gradient of mean loss + lambda/2 |W|^2 is
            larger: scikit-learn's `tol`, whose default is 1e-4.
        max_iterations: for each regulariser.

    Returns:
        A `LogisticPath`; its `gradients` show which fits stopped at `max_iterations` or at the
        limit of float32 before the tolerance.

    Raises:
        UserError: labels outside the classes, features not finite, a regulariser not above 0.
        ValueError: wrong shapes, or unknown reduction.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [9.0], [10.0]]), np.array([0, 0, 1, 1])
        >>> path = fit_logistic(x, y, num_classes=2, regularizers=(1.0, 0.01))
        >>> path.heads.kernel.shape, bool((path.gradients <= 1e-5).all())
        ((2, 1, 2), True)

    Reference: Kornblith et al., https://arxiv.org/abs/1805.08974, whose protocol SimCLR and BYOL
        follow. Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5 (L-BFGS).
        Boehning, Multinomial logistic regression algorithm, 1992: the Hessian is bounded by P
        with c = 1/2.
    """
    grid = np.asarray(regularizers, np.float64)
    _check(features, labels, num_classes, grid, reduction)
    order = np.argsort(-grid, kind="stable")
    scaled = grid / (len(features) if reduction == "sum" else 1)
    x, mean, covariance = _centred(jnp.asarray(features, jnp.float32))
    # On the host: on a TPU an eigendecomposition of this size takes many minutes to compile.
    spectrum, axes = np.linalg.eigh(np.asarray(covariance))
    kernels, biases, numbers = _walk(
        x,
        mean,
        spectrum.astype(np.float32),
        axes.astype(np.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(scaled[order], jnp.float32),
        jnp.float32(tolerance),
        num_classes=num_classes,
        max_iterations=max_iterations,
    )
    back = np.argsort(order)
    objectives, gradients, iterations = (np.asarray(x, np.float64)[back] for x in numbers)
    if not np.isfinite(objectives).all():
        raise UserError(
            f"Logistic regression diverged at lambda = {grid[~np.isfinite(objectives)].max():g}: "
            "the features are too large for float32. Scale them down."
        )
    heads = LinearHead(kernels[back], biases[back])
    return LogisticPath(heads, grid, objectives, gradients, iterations.astype(int))


def _check(features: Any, labels: Any, K: int, grid: np.ndarray, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is 'sum' or 'mean', found '{reduction}'.")
    if grid.ndim != 1 or not len(grid) or not np.all(np.isfinite(grid) & (grid > 0)):
        raise UserError(
            f"Logistic regression expects regularisers above 0, found {grid.tolist()}: without "
            "one there may be no optimum. Give for example (1e-6, 1.0)."
        )
    if np.ndim(labels) != 2:
        check_examples("Logistic regression", features, labels, K)
        return
    check_examples("Logistic regression", features, np.zeros(len(labels), int), K)
    labels = np.asarray(labels)
    if labels.shape[1] != K or not np.isin(labels, (0, 1, IGNORED)).all():
        raise ValueError(
            f"Several labels are int [M,K] of 1, 0 and -1 with K={K}, found {labels.shape} of "
            f"{np.unique(labels)[:5].tolist()}."
        )


class _Memory(NamedTuple):
    s: Array  # [MEMORY,D+1,K], a ring buffer
    y: Array
    written: Array  # int32 [], number of pairs written so far


class _Point(NamedTuple):
    w: Array  # [D+1,K], the bias last
    z: Array  # [M,K], logits
    g: Array  # [D+1,K], of the objective
    memory: _Memory
    iterations: Array
    moved: Array  # bool [], whether the last line search changed w


@jax.jit
def _centred(features: Array) -> tuple[Array, Array, Array]:
    """Returns features minus their mean, the mean, and the covariance [D,D]."""
    # The bias, which is not penalised, absorbs the mean: the same problem, better conditioned.
    mean = jnp.mean(features, axis=0)
    x = features - mean[None, :]
    return x, mean, _dot(x.T, x) / len(x)


@functools.partial(jax.jit, static_argnames=("num_classes", "max_iterations"))
def _walk(x, mean, spectrum, axes, labels, grid, tolerance, *, num_classes, max_iterations):
    (M, D), K = x.shape, num_classes
    # Do not divide by eigenvalues that are 0 up to float32 rounding. M centred examples span at
    # most M - 1 directions; the rest is rounding, which P^-1 would amplify: there W is exactly 0.
    spectrum = jnp.maximum(spectrum, 1e-6 * spectrum[-1])
    spanned = jnp.arange(D) >= D - (M - 1)
    multilabel = labels.ndim == 2
    loss_of, residual_of = _losses(labels, K)
    penalised = jnp.append(jnp.ones((D,)), 0.0)[:, None]

    def logits(w: Array) -> Array:
        return _dot(x, w[:D]) + w[D][None, :]

    def gradient(w: Array, residual: Array, lam: Array) -> Array:
        # The row of zeros makes XLA materialise the transposed operand: on the CPU the product with
        # a transposed view takes six times as long.
        rows = jnp.concatenate([residual.T, jnp.zeros((1, M))])
        total = jnp.append(_dot(rows, x)[:K].T, jnp.sum(residual, axis=0)[None, :], axis=0)
        return total / M + lam * penalised * w

    def one(carry, lam):
        w, memory, previous = carry
        z = logits(w)
        residual, spread = residual_of(z)
        memory = _shifted(memory, lam - previous, penalised)
        curvature = jnp.maximum(spread, 1e-6)

        def precondition(g: Array) -> Array:
            scale = jnp.where(spanned, 1.0 / (curvature * spectrum + lam), 0.0)
            inner = _dot(axes, scale[:, None] * _dot(axes.T, g[:D]))
            d = jnp.append(inner, g[D:] / curvature, axis=0)
            # The softmax ignores a shift common to all classes, and the penalty makes it 0.
            return d if multilabel else d - jnp.mean(d, axis=1, keepdims=True)

        def unfinished(p: _Point) -> Array:
            far = jnp.max(jnp.abs(p.g)) > tolerance
            return far & p.moved & (p.iterations < max_iterations)

        def step(p: _Point) -> _Point:
            d = -_two_loops(p.g, p.memory, precondition)
            d = jnp.where(jnp.sum(d * p.g) < 0, d, -precondition(p.g))
            moves = logits(d)
            penalties = lam * jnp.sum(penalised * p.w * d), lam * jnp.sum(penalised * d * d)
            t = _line_search(residual_of, p.z, moves, M, *penalties)
            w, z = p.w + t * d, p.z + t * moves
            g = gradient(w, residual_of(z)[0], lam)
            return _Point(w, z, g, _remember(p.memory, t * d, g - p.g), p.iterations + 1, t > 0)

        start = _Point(w, z, gradient(w, residual, lam), memory, jnp.int32(0), jnp.bool_(True))
        p = jax.lax.while_loop(unfinished, step, start)
        objective = jnp.sum(loss_of(p.z)) / M + 0.5 * lam * jnp.sum(penalised * p.w**2)
        numbers = objective, jnp.max(jnp.abs(p.g)), p.iterations
        bias = p.w[D] - _dot(mean[None, :], p.w[:D])[0]
        return (p.w, p.memory, lam), (p.w[:D], bias, numbers)

    shape = MEMORY, D + 1, K
    empty = _Memory(jnp.zeros(shape), jnp.zeros(shape), jnp.int32(0))
    _, results = jax.lax.scan(one, (jnp.zeros((D + 1, K)), empty, grid[0]), grid)
    return results


def _dot(a: Array, b: Array) -> Array:
    # Full float32, also on accelerators that round in matmul: the optimum is the result.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _losses(labels: Array, K: int) -> tuple[Any, Any]:
    """Returns two functions of logits [M,K]: losses [M]; (derivatives [M,K], mean of p (1 - p))."""
    multilabel = labels.ndim == 2
    counts = (labels != IGNORED).astype(jnp.float32) if multilabel else None
    target = (labels == 1) if multilabel else (labels[:, None] == jnp.arange(K)[None, :])
    target = target.astype(jnp.float32)

    def loss_of(z: Array) -> Array:
        if counts is not None:
            return jnp.sum(counts * (jax.nn.softplus(z) - target * z), axis=1)
        return jax.nn.logsumexp(z, axis=1) - jnp.sum(target * z, axis=1)

    def residual_of(z: Array) -> tuple[Array, Array]:
        p = jax.nn.sigmoid(z) if multilabel else jax.nn.softmax(z, axis=1)
        residual, spread = p - target, p * (1.0 - p)
        if counts is not None:
            residual, spread = counts * residual, counts * spread
        return residual, jnp.mean(spread)

    return loss_of, residual_of


def _two_loops(g: Array, memory: _Memory, precondition: Any) -> Array:
    """Computes H g, with H the L-BFGS estimate of the inverse Hessian, initialised by P^-1."""
    ages = jnp.arange(MEMORY)
    slots = (memory.written - 1 - ages) % MEMORY  # the newest first
    products = jnp.sum(memory.s * memory.y, axis=(1, 2))[slots]
    used = (ages < memory.written) & (products > 0)
    rho = jnp.where(used, 1.0 / jnp.where(used, products, 1.0), 0.0)

    def back(q, item):
        slot, r = item
        alpha = r * jnp.sum(memory.s[slot] * q)
        return q - alpha * memory.y[slot], alpha

    def forth(q, item):
        slot, r, alpha = item
        return q + (alpha - r * jnp.sum(memory.y[slot] * q)) * memory.s[slot], None

    q, alphas = jax.lax.scan(back, g, (slots, rho))
    return jax.lax.scan(forth, precondition(q), (slots, rho, alphas), reverse=True)[0]


def _shifted(memory: _Memory, change: Array, penalised: Array) -> _Memory:
    """Returns the pairs for a lambda larger by `change`: y + change s, except for the bias."""
    return memory._replace(y=memory.y + change * penalised[None] * memory.s)


def _remember(memory: _Memory, s: Array, y: Array) -> _Memory:
    slot = memory.written % MEMORY
    keep = jnp.sum(s * y) > 0  # at the optimum there is rounding only, and nothing to learn
    new = _Memory(memory.s.at[slot].set(s), memory.y.at[slot].set(y), memory.written + 1)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, memory)


def _line_search(residual_of, z, moves, M, slope_of_penalty, curvature_of_penalty) -> Array:
    """Finds a step where the slope along the direction is small: a bracket, then regula falsi.

    The objective is convex: its slope increases along the line, and changes sign at the minimum.
    Slopes are compared, not values: near the optimum float32 values are all equal.
    """

    def slope(t: Array) -> Array:
        along = jnp.sum(residual_of(z + t * moves)[0] * moves) / M
        return along + slope_of_penalty + t * curvature_of_penalty

    first = slope(jnp.float32(0))
    goal = SLOPE * jnp.abs(first)

    def unfinished(c):
        *_, s, trials = c
        return (jnp.abs(s) > goal) & (trials < TRIALS)

    def trial(c):
        low, s_low, high, s_high, t, s, trials = c
        low, s_low = jnp.where(s < 0, t, low), jnp.where(s < 0, s, s_low)
        high, s_high = jnp.where(s > 0, t, high), jnp.where(s > 0, s, s_high)
        inside = low + (high - low) * jnp.clip(s_low / (s_low - s_high), 0.1, 0.9)
        t = jnp.where(jnp.isinf(high), 3.0 * t, inside)
        return low, s_low, high, s_high, t, slope(t), trials + 1

    one, none = jnp.float32(1), jnp.float32(jnp.inf)
    start = jnp.float32(0), first, none, one, one, slope(one), jnp.int32(1)
    low, _, _, _, t, s, _ = jax.lax.while_loop(unfinished, trial, start)
    t = jnp.where(jnp.abs(s) > goal, low, t)  # out of trials: as far as it is surely downhill
    return jnp.where(first < 0, t, 0.0)
