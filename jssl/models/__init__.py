"""Networks; `build` makes one from the config's `model` section."""

import functools
from typing import Any

import jax.numpy as jnp

from jssl import third_party as third_party  # before anything imports flax
from jssl.errors import UserError, nearest
from jssl.models.alexnet import AlexNetHalf as AlexNetHalf
from jssl.models.alexnet import make_alexnet as make_alexnet
from jssl.models.efficientnet import SIZES as SIZES
from jssl.models.efficientnet import EfficientNet as EfficientNet
from jssl.models.efficientnet import make_efficientnet as make_efficientnet
from jssl.models.heads import Linear as Linear
from jssl.models.heads import Projector as Projector
from jssl.models.norm import BatchNorm as BatchNorm
from jssl.models.own import OwnNet as OwnNet
from jssl.models.own import check_devices as check_devices
from jssl.models.own import make_own
from jssl.models.own import register as register
from jssl.models.own import registered as registered
from jssl.models.own import unregister as unregister
from jssl.models.plain import PlainNet as PlainNet
from jssl.models.regnet import SIZES as REGNET_SIZES
from jssl.models.regnet import RegNet as RegNet
from jssl.models.regnet import make_regnet as make_regnet
from jssl.models.resnet import DEPTHS as DEPTHS
from jssl.models.resnet import ResNet as ResNet
from jssl.models.resnet import make_resnet as make_resnet
from jssl.models.vgg import make_vgg16 as make_vgg16
from jssl.models.vit import SIZES as VIT_SIZES
from jssl.models.vit import ViT as ViT
from jssl.models.vit import make_vit as make_vit

# Default of each key of config.model; `ResNet` documents them.
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
    # Of some families, off by default; see `EfficientNet`, `PlainNet` and (sobel) `ResNet`.
    "small_images": False,
    "stochastic_depth": 0.0,
    "sobel": False,
    "dropout": 0.0,
    # Of a ViT; see `ViT`.
    "patch_size": 16,
    "depth": 0,  # blocks; 0: those of `name`
    "heads": 0,  # 0: those of `name`
    "pool": "class",
    "position": "learned",
    "relative_bias": "none",
    "layer_scale": 0.0,
    "qkv_bias": "all",
    "distillation_token": False,
    "mask_token": False,
    "freeze_patches": False,
    "vit_init": "deit",
    # Of ResNet, EfficientNet and ViT: less memory for more computation.
    "remat": False,
}


_BN = ("bn_groups", "bn_momentum", "bn_epsilon", "bn_unbiased_running_var")
_VIT = ("patch_size", "depth", "heads", "pool", "position", "relative_bias", "layer_scale",
        "qkv_bias", "distillation_token", "mask_token", "freeze_patches", "vit_init",
        "remat")  # fmt: skip
_RESNET = ("stage_sizes", "width", "stem", "stem_width_fixed", "padding", "pool_padding",
           "shortcut", "zero_init_last_gamma", "kernel_init", "norm", "bn_interleaved", "sobel",
           "remat", *_BN)  # fmt: skip
_PLAIN = ("width", "sobel", "dropout", "bn_interleaved", *_BN)
_EFFICIENTNET = ("width", "small_images", "stochastic_depth", "bn_interleaved", "remat", *_BN)
# name -> its maker, the keys that it reads
_OTHERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "alexnet": (make_alexnet, _PLAIN),
    "alexnet_half": (AlexNetHalf, _BN),
    "vgg16": (make_vgg16, _PLAIN),
    **{name: (functools.partial(make_efficientnet, name), _EFFICIENTNET) for name in SIZES},
    **{
        name: (functools.partial(make_regnet, name), ("small_images", "bn_interleaved", *_BN))
        for name in REGNET_SIZES
    },
    **{
        name: (functools.partial(make_vit, name), ("width", "stochastic_depth", "dropout", *_VIT))
        for name in VIT_SIZES
    },
}


def encode(encoder: Any, images: Any, *, train: bool, rows: Any) -> Any:
    """Applies an encoder inside a network; those that drop by example learn their numbers.

    Args:
        encoder: from `build`.
        images: [B,H,W,C].
        train: as of the encoder.
        rows: int32 [B], the index of each image in the global batch; [] that of the first; or None.

    Returns:
        The encoder's (features [B,D], intermediates).
    """
    numbered = isinstance(encoder, (ViT, EfficientNet, PlainNet))
    return encoder(images, train=train, **({"rows": rows} if numbered else {}))


def names() -> list[str]:
    """Returns the names of jssl's own networks."""
    return [*DEPTHS, *_OTHERS]


def build(
    model_config: Any, *, axis_name: str | None = None, dtype: Any = jnp.float32
) -> ResNet | EfficientNet | PlainNet | AlexNetHalf | RegNet | ViT | OwnNet:
    """Builds the encoder of a config.

    Args:
        model_config: mapping with `name` and any keys of `DEFAULTS`; a missing key takes the
            network's own default, which is the paper's.
        axis_name: over which batch statistics are averaged; None on one device.
        dtype: of the computation.

    Returns:
        A linen module `(images [B,H,W,C], train) -> (features [B,D], intermediates)`; an `OwnNet`
        for a name of `register`.

    Raises:
        UserError: an unknown key, name or value; a key that this network does not read and that is
            not at its default.

    Example:
        >>> build({'name': 'resnet50', 'width': 2.0}).width
        2.0
        >>> build({'name': 'efficientnet_b1'}).depth
        1.1
        >>> build({'name': 'vit_tiny', 'patch_size': 4}).heads
        3
    """
    for key in model_config:
        if key not in DEFAULTS:
            raise UserError(f"Unknown key 'model.{key}': {nearest(key, DEFAULTS)}.")
    switches = {key: model_config[key] for key in model_config}
    if isinstance(switches.get("stage_sizes"), list):  # read back from a workdir's JSON
        switches["stage_sizes"] = tuple(switches["stage_sizes"])
    name = switches.pop("name")
    own_names = registered()
    if name not in (*names(), *own_names):
        raise UserError(
            f"Unknown model.name '{name}': {nearest(name, [*names(), *own_names])}. A network of "
            f"your own is registered first: jssl.models.register('{name}', make)."
        )
    make, keys = _OTHERS.get(name, (functools.partial(make_resnet, name), _RESNET))
    if name in own_names:
        make, keys = functools.partial(make_own, name), ()
    for key, value in switches.items():
        if key not in keys and value != DEFAULTS[key]:
            raise UserError(
                f"model.{key}={value!r} has no effect on '{name}', which reads "
                f"{', '.join(keys) or 'none of these keys'}. Expected its default: type "
                f"--config.model.{key}={DEFAULTS[key]!r}."
            )
    own = {key: value for key, value in switches.items() if key in keys}
    return make(**own, axis_name=axis_name, dtype=dtype)
