"""Losses of a detector, on samples with weights, and of a segmentation."""

import jax
import jax.numpy as jnp

from jssl.types import Array

UNLABELLED = 255  # the label of VOC's borders


def objectness_loss(logits: Array, is_object: Array, weight: Array) -> Array:
    """Computes the summed binary cross entropy of a region proposal network.

    Args:
        logits: [N] float.
        is_object: bool [N].
        weight: float [N], 0 for rows that are no part of the sample.

    Returns:
        float32 []; the caller divides by 256 times the number of pictures.

    Example:
        >>> is_object = jnp.array([True, False, False])
        >>> print(objectness_loss(jnp.array([2.0, -1.0, 0.5]), is_object, jnp.ones(3)).round(4))
        1.4143
    """
    x, y = logits.astype(jnp.float32), is_object.astype(jnp.float32)
    return jnp.sum((jax.nn.softplus(x) - x * y) * weight)


def box_loss(deltas: Array, targets: Array, weight: Array, *, beta: float = 0.0) -> Array:
    """Computes the summed L1 loss of deltas, smooth below `beta`.

        l(d) = |d| - beta / 2 where |d| >= beta, else d^2 / (2 beta)

    Args:
        deltas, targets: [N,4] float, from `encode_boxes`.
        weight: float [N], 1 for positives of the sample.
        beta: 0 for L1 (MoCo's recipe), 1/9 in torchvision.

    Returns:
        float32 []; the caller divides: in a region proposal network by 256 times the number of
        pictures, in a head by the number of all its samples.

    Example:
        >>> d = jnp.array([[0.05, -0.3, 0.2, 1.0]])
        >>> t = jnp.array([[0.0, 0.0, 0.1, 0.2]])
        >>> for beta in (0.0, 1 / 9, 1.0):
        ...     print(box_loss(d, t, jnp.ones(1), beta=beta).round(5))
        1.25
        1.04514
        0.37125

    Reference: Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083, equation 3.
    """
    d = jnp.abs(deltas.astype(jnp.float32) - targets.astype(jnp.float32))
    smooth = jnp.square(d) / (2 * beta) if beta > 0 else d
    return jnp.sum(jnp.where(d < beta, smooth, d - beta / 2) * weight[:, None])


def head_loss(logits: Array, labels: Array, weight: Array) -> Array:
    """Computes the mean cross entropy of a detection head over its samples.

    Args:
        logits: [N,K+1] float; the last class is the background.
        labels: int32 [N] in [0, K].
        weight: float [N], 1 for a row of the sample.

    Returns:
        float32 []; 0 for an empty sample.

    Example:
        >>> print(head_loss(jnp.zeros((2, 4)), jnp.array([0, 3]), jnp.array([1.0, 0.0])).round(4))
        1.3863
    """
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    losses = -jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1)


def pixel_loss(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Computes the summed cross entropy of the labelled pixels.

    Args:
        logits: [...,K] float.
        labels: int [...] in [0, K); `UNLABELLED`, 255, where a pixel does not count.

    Returns:
        float32 [], and the number of labelled pixels, float32 []; the caller divides by it.

    Example:
        >>> print(*pixel_loss(jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 255]])))
        1.3862944 2.0
    """
    labels = labels.astype(jnp.int32)
    counted = labels != UNLABELLED
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.where(counted, labels, 0)[..., None]
    losses = -jnp.take_along_axis(logs, own, axis=-1)[..., 0]
    return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(counted, dtype=jnp.float32)
