"""Numerical helpers that losses, states and methods share."""

import jax
import jax.numpy as jnp

from jssl.types import Array


def unit_rows(x: Array) -> Array:
    """Scales the last axis to unit norm: float [...,D] -> float32 [...,D].

    The squared norm is at least 1e-12, as in TensorFlow's `l2_normalize`: zero rows stay zero.

    Example:
        >>> print(unit_rows(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))
