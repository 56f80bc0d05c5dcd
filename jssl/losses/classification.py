"""Classification losses and accuracies, per example."""

import jax
import jax.numpy as jnp

from jssl.types import Array


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Computes the softmax cross entropy with integer or soft labels, per example.

        loss = -sum over k of q(k) log softmax(logits)(k),   q = (1 - e) labels + e / K

    with label smoothing e. The caller takes the mean over examples.

    Args:
        logits: [B,K] float; -inf masks a class and excludes it from the smoothing.
        labels: int [B] in [0,K), or float [B,K], each row a distribution.
        label_smoothing: e in [0,1), the weight of the uniform distribution.

    Returns:
        float32 [B], in nats; ln K at uniform logits; inf if the label is masked. NaN for an
        integer label outside [0,K), such as the -1 of an unlabelled example: jit cannot raise,
        and NaN stops a run.

    Raises:
        ValueError: shapes or dtypes other than these, smoothing outside [0,1).

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.array([[0.0, 0.0], [0.0, 1.0]])  # ln 2; ln(1 + 1/e)
        >>> [round(float(loss), 4) for loss in cross_entropy(logits, jnp.array([0, 1]))]
        [0.6931, 0.3133]

    Reference:
        Szegedy et al., CVPR 2016, https://arxiv.org/abs/1512.00567, section 7 (smoothing), where
        u(k) = 1/K includes the true class.
    """
    soft = _check("cross_entropy", logits, labels, soft_allowed=True)
    known = not isinstance(label_smoothing, jax.Array)
    if known and not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"cross_entropy expects label_smoothing in [0,1), found {label_smoothing}")
    log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    K = log_p.shape[1]
    target = (
        jnp.asarray(labels, jnp.float32) if soft else jax.nn.one_hot(labels, K, dtype=jnp.float32)
    )
    # Masked classes (-inf) are excluded from the smoothing.
    allowed = jnp.logical_not(jnp.isneginf(logits)).astype(jnp.float32)
    uniform = allowed / jnp.maximum(jnp.sum(allowed, axis=1, keepdims=True), 1)
    target = (1.0 - label_smoothing) * target + label_smoothing * uniform
    loss = -jnp.sum(target * jnp.where(target > 0, log_p, 0.0), axis=1)  # 0 ln 0 = 0
    return loss if soft else jnp.where(_in_range(labels, K), loss, jnp.nan)


def top_k_correct(logits: Array, labels: Array, *, k: int) -> Array:
    """Whether the label is among the k largest logits, per example; ties count against.

    Args:
        logits: [B,K] float.
        labels: int [B] in [0,K); a label outside is never correct.
        k: 1 <= k <= K.

    Returns:
        float32 [B], 1 or 0; its mean is the top-k accuracy. An example with equal logits or a NaN
        counts as wrong, so that a collapsed or broken network scores 0.

    Raises:
        ValueError: shapes or dtypes other than these, k outside [1,K].

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
        >>> print(top_k_correct(logits, jnp.array([0, 1, 0]), k=1))
        [1. 0. 0.]

    Reference: the top-1 and top-5 of the ImageNet challenge, Russakovsky et al., IJCV 2015,
        https://arxiv.org/abs/1409.0575, section 4.1.
    """
    _check("top_k_correct", logits, labels, soft_allowed=False)
    K = jnp.shape(logits)[1]
    if not 1 <= k <= K:
        raise ValueError(f"top_k_correct expects k from 1 to K={K}, found {k}.")
    own = jnp.take_along_axis(logits, jnp.clip(labels, 0, K - 1)[:, None], axis=1)
    rank = jnp.sum(logits >= own, axis=1)  # 1 for the largest; ties count against
    valid = jnp.logical_and(_in_range(labels, K), ~jnp.any(jnp.isnan(logits), axis=1))
    return jnp.logical_and(rank <= k, valid).astype(jnp.float32)


def _in_range(labels: Array, K: int) -> Array:
    return jnp.logical_and(labels >= 0, labels < K)


def _check(name: str, logits: Array, labels: Array, *, soft_allowed: bool) -> bool:
    """Checks shapes and dtypes; returns whether the labels are soft."""
    kinds = "labels int [B]" + (" or float [B,K]" if soft_allowed else "")
    shapes = jnp.shape(logits), jnp.shape(labels)
    dtypes = jnp.result_type(logits), jnp.result_type(labels)
    floats = [jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes]
    soft = soft_allowed and len(shapes[1]) == 2
    fits = (
        shapes[1] == shapes[0] and floats[1]
        if soft
        else shapes[1] == shapes[0][:1] and jnp.issubdtype(dtypes[1], jnp.integer)
    )
    if len(shapes[0]) != 2 or not floats[0] or not fits:
        raise ValueError(
            f"{name} expects logits float [B,K] and {kinds}, found logits {dtypes[0].name} "
            f"{shapes[0]} and labels {dtypes[1].name} {shapes[1]}."
        )
    return soft
