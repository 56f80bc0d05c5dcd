"""Loss of predictive learning: one view of an example predicted from another, value by value."""

import jax.numpy as jnp

from jssl.types import Array

NORMS = ("l1", "l2")


def view_prediction(prediction: Array, target: Array, *, norm: str = "l2") -> Array:
    """Computes the mean absolute (L1) or squared (L2) error of a predicted view, per example.

        L1 = mean over i of |v^_i - v_i|,     L2 = mean over i of (v^_i - v_i)^2

    Up to constants these are -ln p(v_2 | v_1) of Laplace and of normal densities, with
    p(v_2 | v_1) = prod over i of p(v_2i | v_1): the values i are independent of each other given
    v_1. The caller takes the mean over examples.

    Args:
        prediction: [B,...] float, v^, made from the other view.
        target: [B,...] float, v; any range.
        norm: 'l1' | 'l2'.

    Returns:
        float32 [B], not negative; 0 where every value is right. 'l2' is the variance of v where v^
        is v's mean.

    Raises:
        ValueError: shapes that differ or are empty, arrays that are not float, an unknown norm.

    Example:
        >>> v = jnp.array([[0.0, 1.0], [0.5, 0.5]])
        >>> print(view_prediction(jnp.full((2, 2), 0.5), v, norm='l1'))
        [0.5 0. ]
        >>> print(view_prediction(jnp.full((2, 2), 0.5), v, norm='l2'))
        [0.25 0.  ]

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, section 3.1, which has no
        numbered equation and no published code; Zhang et al., CVPR 2017 (split-brain
        autoencoders), https://arxiv.org/abs/1611.09842, has L2 and a cross entropy of bins.
    """
    arrays = {"prediction": prediction, "target": target}
    shapes = {jnp.shape(v) for v in arrays.values()}
    kinds = [jnp.result_type(v) for v in arrays.values()]
    shape = jnp.shape(prediction)
    floats = all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    if len(shapes) > 1 or len(shape) < 2 or 0 in shape or not floats:
        found = ", ".join(f"{k} {jnp.result_type(v)} {jnp.shape(v)}" for k, v in arrays.items())
        raise ValueError(
            f"view_prediction expects float arrays of one shape [B,...], found {found}."
        )
    if norm not in NORMS:
        raise ValueError(f"view_prediction expects norm 'l1' or 'l2', found {norm!r}.")
    error = jnp.asarray(prediction, jnp.float32) - jnp.asarray(target, jnp.float32)
    values = jnp.abs(error) if norm == "l1" else jnp.square(error)
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
