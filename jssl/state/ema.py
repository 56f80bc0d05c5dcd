"""Exponential moving averages of parameters, and their momentum schedules."""

import chex
import jax
import jax.numpy as jnp

from jssl.types import Array, PyTree


def ema(average: PyTree, new: PyTree, *, momentum: float | Array) -> PyTree:
    """Computes momentum * average + (1 - momentum) * new.

    Args:
        average: pytree of floats; kept in float32, as bfloat16 does not change with a momentum of
            0.999.
        new: pytree of the same structure and shapes.
        momentum: in [0, 1]; 0 returns `new`, 1 returns `average`.

    Returns:
        float32 pytree.

    Raises:
        AssertionError: the structures or shapes differ.

    Example:
        >>> print(ema({'w': jnp.array([1.0])}, {'w': jnp.array([3.0])}, momentum=0.75)['w'])
        [1.5]

    Reference:
        MoCo, equation 2, https://arxiv.org/abs/1911.05722; BYOL, equation 1,
        https://arxiv.org/abs/2006.07733.
    """
    chex.assert_trees_all_equal_structs(average, new)
    chex.assert_trees_all_equal_shapes(average, new)  # other shapes would broadcast

    def move(a: Array, b: Array) -> Array:
        a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        return momentum * a + (1 - momentum) * b

    return jax.tree.map(move, average, new)


def warmup_momentum(step: Array, *, decay: float) -> Array:
    """Returns min(decay, (1 + t) / (10 + t)), so that an average soon forgets its start.

    Args:
        step: int32 [], t, the number of earlier updates.
        decay: the final value, in [0, 1].

    Returns:
        float32 [].

    Example:
        >>> [round(float(warmup_momentum(t, decay=0.9999)), 4) for t in (0, 10, 100, 10000)]
        [0.1, 0.55, 0.9182, 0.9991]

    Reference:
        `num_updates` of https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage
    """
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t))


def cosine_momentum(step: Array, *, base: float, total_steps: int) -> Array:
    """Returns a momentum that increases from `base` at step 0 to 1 at `total_steps`, as a cosine.

    1 - (1 - base) (cos(pi k / K) + 1) / 2, constant at 1 after K.

    Args:
        step: int32 [], k.
        base: at the start, in [0, 1].
        total_steps: K.

    Returns:
        float32 [].

    Example:
        >>> [round(float(cosine_momentum(k, base=0.9, total_steps=10)), 3) for k in (0, 5, 10)]
        [0.9, 0.95, 1.0]

    Reference:
        BYOL, section 3.3, https://arxiv.org/abs/2006.07733; MoCo v3's `moco-m-cos`.
    """
    share = jnp.minimum(jnp.asarray(step, jnp.float32) / total_steps, 1.0)
    return 1 - (1 - base) * (jnp.cos(jnp.pi * share) + 1) / 2
