"""Checks and normalisation of the arrays of all probes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.errors import NotFiniteError, UserError
from jssl.types import Array


def unit(x: Array) -> Array:
    """Scales the rows of [M,D] to unit norm, float32; zero rows stay zero.

    Example:
        >>> print(unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    x = jnp.asarray(x, jnp.float32)
    # Divide by the largest entry first, so that squares neither overflow nor underflow.
    scale = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    x = x / jnp.where(scale > 0, scale, 1.0)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def check_examples(name: str, features: Any, labels: Any, num_classes: int) -> None:
    """Raises unless features are [M,D] with M > 0, finite, and labels are [M] in [0, num_classes).

    Under a JAX transformation only the shapes are checked.
    """
    shapes = np.shape(features), np.shape(labels)
    if len(shapes[0]) != 2 or 0 in shapes[0] or shapes[1] != shapes[0][:1]:
        raise ValueError(
            f"{name} expects features [M,D] and labels [M], found {shapes[0]} and {shapes[1]}."
        )
    if not isinstance(labels, jax.core.Tracer):
        labels = np.asarray(labels)
        low, high = labels.min(), labels.max()
        if labels.dtype.kind not in "iu" or low < 0 or high >= num_classes:
            raise UserError(
                f"{name} expects integer labels from 0 to {num_classes - 1}, found {labels.dtype} "
                f"from {low} to {high}. A data set without labels (-1) cannot be probed: type "
                "another --source or --config.data.name."
            )
    if not isinstance(features, jax.core.Tracer):
        # In parts: the answer for a bank of 1.28 M x 2048 is 2.6 GB.
        features, rows = np.asarray(features), max(1, 2**24 // shapes[0][1])
        parts = [features[i : i + rows] for i in range(0, len(features), rows)]
        bad = np.flatnonzero(~np.concatenate([np.isfinite(x).all(axis=1) for x in parts]))
        if len(bad):
            raise NotFiniteError(
                f"{name} found {len(bad)} of {shapes[0][0]} examples whose features are not "
                f"finite, the first at row {bad[0]}: the weights or running statistics of this "
                "checkpoint are broken.",
                "Type --step=N with an earlier checkpoint.",
            )
