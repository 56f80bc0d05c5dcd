"""Initialisers of a Vision Transformer in DeiT's, BEiT's and MoCo v3's official code.

DeiT:     https://github.com/facebookresearch/deit, models.py, with timm's `trunc_normal_`.
BEiT:     https://github.com/microsoft/unilm/tree/master/beit, modeling_pretrain.py and
          modeling_finetune.py.
MoCo v3:  https://github.com/facebookresearch/moco-v3, vits.py.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.types import Array

Init = Callable[..., Array]
INITS = ("deit", "beit", "beit_finetune", "moco_v3")

# Kernels and tokens. DeiT truncates N(0, 0.02) at -2 and 2, which has no effect. BEiT truncates at
# one standard deviation, which gives a standard deviation of 0.0108.
_normal = nn.initializers.normal(0.02)


def _truncated_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape, dtype)


def _uniform(bound: float) -> Init:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def token_init(recipe: str) -> Init:
    """Returns the initialiser of tokens and learned positions; `recipe` is one of `INITS`."""
    return {"beit": _truncated_normal, "moco_v3": nn.initializers.normal(1e-6)}.get(recipe, _normal)


def patch_inits(recipe: str, fan_in: int, dim: int) -> tuple[Init, Init]:
    """Returns the initialisers of the patch embedding's kernel and bias; torch's by default."""
    if recipe == "beit":
        return _truncated_normal, nn.initializers.zeros
    if recipe == "moco_v3":
        return _uniform(math.sqrt(6 / (fan_in + dim))), nn.initializers.zeros
    return _uniform(1 / math.sqrt(fan_in)), _uniform(1 / math.sqrt(fan_in))


def kernel_init(recipe: str, layer: str, block: int) -> Init:
    """Returns the initialiser of a dense kernel: `layer` is 'qkv', 'proj', 'fc1' or 'fc2'.

    `block` counts from 0. MoCo v3: Xavier uniform, with query, key and value as three matrices.
    BEiT: the last layer of a residual branch is divided by sqrt(2 (block + 1)).
    """
    if recipe == "moco_v3":
        return lambda key, shape, dtype=jnp.float32: _uniform(
            math.sqrt(6 / (shape[0] + shape[1] // (3 if layer == "qkv" else 1)))
        )(key, shape, dtype)
    init = _truncated_normal if recipe == "beit" else _normal
    if recipe == "deit" or layer not in ("proj", "fc2"):
        return init
    return lambda *args: init(*args) / math.sqrt(2 * (block + 1))
