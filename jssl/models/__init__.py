"""Networks; `build` makes one from the config's `model` section."""

from typing import Any

import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.models.heads import Linear as Linear
from jssl.models.heads import Projector as Projector
from jssl.models.norm import BatchNorm as BatchNorm
from jssl.models.resnet import DEPTHS as DEPTHS
from jssl.models.resnet import ResNet as ResNet
from jssl.models.resnet import make_resnet as make_resnet

# config.model, with the default of each key; see `ResNet` for what they mean.
DEFAULTS: dict[str, Any] = {
    "name": "resnet50",
    "stage_sizes": (),  # blocks of each group; (): those of `name`
    "width": 1.0,
    "stem": "imagenet",
    "stem_width_fixed": False,
    "padding": "symmetric",
    "pool_padding": "symmetric",
    "shortcut": "when_needed",
    "zero_init_last_gamma": False,
    "kernel_init": "he_fan_out",
    "norm": "bn",
    "bn_groups": 1,
    "bn_interleaved": False,
    "bn_momentum": 0.9,
    "bn_epsilon": 1e-5,
    "bn_unbiased_running_var": False,
}


def build(model_config: Any, *, axis_name: str | None = None, dtype: Any = jnp.float32) -> ResNet:
    """The encoder of a config.

    Args:
        model_config: mapping with `name` and any of the keys of `DEFAULTS`.
        axis_name: over which batch statistics are averaged; None on one device.
        dtype: of the computation.

    Returns:
        A linen module `(images [B,H,W,C], train) -> (features [B,D], intermediates)`.

    Raises:
        UserError: an unknown key, name or word, with the nearest.

    Example:
        >>> build({'name': 'resnet50', 'width': 2.0}).width
        2.0
    """
    for key in model_config:
        if key not in DEFAULTS:
            raise UserError(f"Unknown key 'model.{key}': {nearest(key, DEFAULTS)}.")
    switches = {key: model_config[key] for key in model_config}
    return make_resnet(switches.pop("name"), axis_name=axis_name, dtype=dtype, **switches)
