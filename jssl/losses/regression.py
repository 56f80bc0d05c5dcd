"""Regression losses (BYOL): predict another network's embedding of the same example."""

import jax
import jax.numpy as jnp

from jssl.numerics import unit_rows
from jssl.types import Array


def normalized_regression(prediction: Array, target: Array) -> Array:
    """Computes the squared distance of normalised predictions and targets, per example.

        l = | q/|q| - z/|z| |^2 = 2 - 2 q.z / (|q| |z|)

    Targets get no gradient. The caller takes the mean over examples.

    Args:
        prediction: [B,D] float, q, from the online network.
        target: [B,D] float, z; `target[i]` is the target of `prediction[i]`.

    Returns:
        float32 [B] in [0, 4]; 2 for orthogonal vectors, which independent vectors in many
        dimensions nearly are. The norms of q and z have no effect.

    Raises:
        ValueError: arrays that are not of one shape [B,D] or not float.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        >>> print(normalized_regression(q, jnp.array([[1.0, 0.0], [0.0, 9.0], [-1.0, 0.0]])))
        [0. 2. 4.]

    Reference:
        Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733, equation 2. Official code:
        https://github.com/google-deepmind/deepmind-research/tree/master/byol, utils/helpers.py,
        whose floor of 1e-12 under the squared norms is kept.
    """
    _check("normalized_regression", prediction=prediction, target=target)
    q, z = unit_rows(prediction), jax.lax.stop_gradient(unit_rows(target))
    return jnp.sum(jnp.square(q - z), axis=1)


def symmetric_regression(q_a: Array, q_b: Array, z_a: Array, z_b: Array) -> Array:
    """Computes BYOL's loss: predictions against targets of the other view, in both directions.

        l = | q_a/|q_a| - z_b/|z_b| |^2 + | q_b/|q_b| - z_a/|z_a| |^2

    Args:
        q_a, q_b: [B,D] float, the predictor's output for the first and the second view.
        z_a, z_b: [B,D] float, the target network's projection of the first and the second view;
            without gradient.

    Returns:
        float32 [B] in [0, 8]; about 4 for unrelated outputs.

    Raises:
        ValueError: embeddings that are not of one shape [B,D] or not float.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> print(symmetric_regression(x, y, y, x))
        [0.]

    Reference:
        Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733, section 3.1. Official code:
        https://github.com/google-deepmind/deepmind-research/tree/master/byol, byol_experiment.py.
    """
    _check("symmetric_regression", q_a=q_a, q_b=q_b, z_a=z_a, z_b=z_b)
    return normalized_regression(q_a, z_b) + normalized_regression(q_b, z_a)


def _check(name: str, **arrays: Array) -> None:
    description = ", ".join(
        f"{k} {jnp.result_type(v).name} {jnp.shape(v)}" for k, v in arrays.items()
    )
    (shape, *others) = dict.fromkeys(jnp.shape(v) for v in arrays.values())
    if others or len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} expects embeddings of one shape [B,D], found {description}.")
    if not all(jnp.issubdtype(jnp.result_type(v), jnp.floating) for v in arrays.values()):
        raise ValueError(f"{name} expects float arrays, found {description}.")
