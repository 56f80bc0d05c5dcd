"""DeepCluster v2's loss: classification with fixed prototypes."""

import jax
import jax.numpy as jnp

from jssl.losses._checks import not_positive
from jssl.losses.classification import cross_entropy, top_k_correct
from jssl.parallel.collectives import axis_size, psum
from jssl.types import Array


def prototype_cross_entropy(
    features: Array,
    prototypes: Array,
    labels: Array,
    *,
    temperature: float,
    axis_name: str | None = None,
) -> Array:
    """Computes the cross entropy of similarities to prototypes with cluster labels, per crop.

        l(v, i) = - log softmax over k of (z_vi . p_k / T) (y_i)

    The prototypes get no gradient. The loss of an example without a cluster is 0, and the others
    are scaled by N / (labelled examples of the global batch), so that the mean over all is the mean
    over the labelled ones.

    Args:
        features: z, float [V,B,D], rows of unit length: V crops of each example.
        prototypes: p, float [K,D], rows of unit length.
        labels: y, int [B] in [0,K), or -1 for an example without a cluster.
        temperature: T > 0; 0.1 in the official code.
        axis_name: the batch axis, over which labelled examples are counted.

    Returns:
        float32 [V,B], in nats; ln K at uniform similarities, 8.006 for K = 3000.

    Raises:
        ValueError: other shapes, temperature not above 0.

    Example:
        >>> z = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
        >>> loss = prototype_cross_entropy(z, jnp.eye(2), jnp.array([0, -1]), temperature=1.0)
        >>> [round(float(l), 4) for l in loss[0]]  # ln(1 + 1/e), of one labelled example in two
        [0.6265, 0.0]

    Reference:
        https://github.com/facebookresearch/swav, main_deepclusterv2.py: CrossEntropyLoss with
        ignore_index -100, which takes its mean on each GPU.
    """
    return prototype_cross_entropy_with_top1(
        features, prototypes, labels, temperature=temperature, axis_name=axis_name
    )[0]


def prototype_cross_entropy_with_top1(
    features: Array,
    prototypes: Array,
    labels: Array,
    *,
    temperature: float,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Computes `prototype_cross_entropy` and its top-1 accuracy.

    Args:
        features: float [V,B,D], as `prototype_cross_entropy`.
        prototypes: float [K,D].
        labels: int [B].
        temperature: T > 0.
        axis_name: the batch axis.

    Returns:
        loss: float32 [V,B].
        top1: float32 [V,B], 1 or 0, scaled as the loss; ties count as wrong.

    Raises:
        ValueError: other shapes, temperature that is not positive.

    Example:
        >>> z = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
        >>> print(prototype_cross_entropy_with_top1(
        ...     z, jnp.eye(2), jnp.array([0, 0]), temperature=1.0)[1])
        [[1. 0.]]

    Reference: https://github.com/facebookresearch/swav, main_deepclusterv2.py.
    """
    shapes = jnp.shape(features), jnp.shape(prototypes), jnp.shape(labels)
    fits = len(shapes[0]) == 3 and len(shapes[1]) == 2 and shapes[2] == shapes[0][1:2]
    if not fits or shapes[0][2] != shapes[1][1] or not_positive(temperature):
        raise ValueError(
            "prototype_cross_entropy expects features [V,B,D], prototypes [K,D], labels [B] and a "
            f"positive temperature; found {shapes[0]}, {shapes[1]}, {shapes[2]} and {temperature}."
        )
    V, B, D = shapes[0]
    prototypes = jax.lax.stop_gradient(prototypes).astype(jnp.float32)
    scores = jnp.asarray(features, jnp.float32).reshape(V * B, D) @ prototypes.T / temperature
    labelled = labels >= 0
    total = psum(jnp.sum(labelled), axis_name)
    weight = labelled * (B * axis_size(axis_name) / jnp.maximum(total, 1).astype(jnp.float32))
    targets = jnp.tile(jnp.maximum(labels, 0), V)
    loss = cross_entropy(scores, targets).reshape(V, B)
    top1 = top_k_correct(scores, targets, k=1).reshape(V, B)
    return loss * weight[None], top1 * weight[None]
