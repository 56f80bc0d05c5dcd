"""DeepCluster's pooling of AlexNet's maps: average pooling to about 9,600 features each.

conv1  6 x 6, stride 6, zero padding 3   96 x 10 x 10 = 9600
conv2  4 x 4, stride 4                   256 x 6 x 6 = 9216
conv3  3 x 3, stride 3, zero padding 1   384 x 5 x 5 = 9600, conv4 the same
conv5  2 x 2, stride 2                   256 x 6 x 6 = 9216
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.types import Array

# Side of the window, which is also the stride, and zero padding, which counts in the average.
WINDOWS = {"conv1": (6, 3), "conv2": (4, 0), "conv3": (3, 1), "conv4": (3, 1), "conv5": (2, 0)}
POOLED = "conv1 ... conv5 after their ReLU averaged over DeepCluster's windows"


def pool_map(name: str, x: Array) -> Array:
    """Pools a map of AlexNet to the features of DeepCluster's linear classifiers.

    Args:
        name: conv1 ... conv5.
        x: float [B,h,w,c], after its ReLU and before its max-pool. A map smaller than the window,
            of images much smaller than the paper's 224 px, is averaged over all positions.

    Returns:
        float32 [B,D].

    Example:
        >>> pool_map('conv2', jnp.ones((1, 27, 27, 256))).shape
        (1, 9216)

    Reference: the official eval_linear.py, https://github.com/facebookresearch/deepcluster.
    """
    x = jnp.asarray(x, jnp.float32)
    side, zeros = WINDOWS[name]
    if min(x.shape[1:3]) + 2 * zeros < side:
        return jnp.mean(x, axis=(1, 2))
    padding = ((zeros, zeros), (zeros, zeros))
    x = nn.avg_pool(x, (side, side), strides=(side, side), padding=padding)
    return x.reshape(len(x), -1)


def pooled_maps(embed_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an AlexNet's `embed` so that conv1 ... conv5 are pooled by `pool_map`.

    Example:
        >>> embed = pooled_maps(lambda state, x: (x, {'conv5': jnp.ones((1, 13, 13, 256))}))
        >>> embed(None, 0)[1]['conv5'].shape
        (1, 9216)
    """

    def embed(state: Any, images: Array) -> tuple[Array, dict[str, Array]]:
        features, named = embed_fn(state, images)
        return features, {k: pool_map(k, v) if k in WINDOWS else v for k, v in named.items()}

    return embed
