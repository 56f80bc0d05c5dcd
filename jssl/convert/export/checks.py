"""Which networks each format takes.

What the names and shapes of the tensors do not show must be as the library's code has it.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from jssl.convert.export.names import CLASSIFIERS, family_name
from jssl.errors import UserError
from jssl.methods._common import channels_of
from jssl.models.resnet import DEPTHS
from jssl.models.vit import SIZES

LIBRARIES = {
    "safetensors": "torchvision and timm",
    "torch": "torchvision and timm",
    "timm": "timm",
    "hf": "transformers",
}
NOT_HF = ("efficientnet_timm", "regnet_timm")  # families that are not written for transformers
Expected = Mapping[str, tuple[Any, ...]]


class Difference(NamedTuple):
    """A key of `model` that a library has otherwise."""

    key: str
    value: Any
    expected: Any


def check_network(config: Any, modules: Collection[str], form: str) -> None:
    """Refuses a network that the library of a format does not have.

    Args:
        config: of the run.
        modules: names of the modules of its parameters.
        form: the format.

    Raises:
        UserError: what was found, what is expected, and which formats take it.
    """
    if form == "hf" and family_name(config) in NOT_HF:
        raise UserError(
            f"--format=hf has no '{config.model.name}': expected a ResNet or a Vision Transformer. "
            f"Type --format={_others(config, form)}."
        )
    if form == "hf" and channels_of(config) != 3:
        raise UserError(
            "--format=hf is for pictures of three channels, to which the picture processors of "
            f"transformers convert: found data.channels={channels_of(config)}. Type "
            f"--format={_others(config, form)}."
        )
    other = difference(config, form)
    if other is not None:
        raise UserError(
            f"The {config.model.name} of {LIBRARIES[form]} has another form: found "
            f"model.{other.key}={other.value!r}, expected {other.expected!r}. Type "
            f"--format={_others(config, form)}."
        )
    if config.model.distillation_token and not set(CLASSIFIERS) <= set(modules):
        raise UserError(
            f"{LIBRARIES[form]} average what two classifiers say of a distillation token, and the "
            f"run of method '{config.method}' has none. Type --format=onnx."
        )


def difference(config: Any, form: str) -> Difference | None:
    """The first key of `model` that the library of a format has otherwise; None for none.

    Example:
        >>> from jssl import models
        >>> from ml_collections import ConfigDict
        >>> config = ConfigDict({'model': {**models.DEFAULTS, 'padding': 'same'}})
        >>> difference(config, 'timm')
        Difference(key='padding', value='same', expected='symmetric')
    """
    make = {
        "resnet": _resnet,
        "efficientnet_timm": _efficientnet,
        "regnet_timm": _regnet,
        "deit": _vit,
        "beit": _beit,
    }[family_name(config)]
    for key, values in make(config.model, form).items():
        if config.model[key] not in values:
            return Difference(key, config.model[key], values[0])
    return None


def _others(config: Any, form: str) -> str:
    taken = [
        other
        for other in LIBRARIES
        if other != form
        and not (other == "hf" and family_name(config) in NOT_HF)
        and not (other == "hf" and channels_of(config) != 3)
        and difference(config, other) is None
    ]
    return " or --format=".join([*taken, "onnx"])


def _resnet(model: Any, form: str) -> Expected:
    bottleneck = DEPTHS[model.name][0]
    expected: dict[str, tuple[Any, ...]] = {
        "norm": ("bn",),
        "sobel": (False,),
        "padding": ("symmetric",),
        # Without the max-pool there is nothing to pad.
        "pool_padding": ("symmetric", *(("same",) if model.stem == "cifar" else ())),
        # A bottleneck's first block changes the number of channels in any case.
        "shortcut": ("when_needed", *(("always",) if bottleneck else ())),
        "bn_epsilon": (1e-5,),  # no library has a setting for it
        "stem_width_fixed": (False, *((True,) if model.width == 1 else ())),
    }
    if form in ("timm", "hf"):
        four = [name for name, (_, blocks) in DEPTHS.items() if len(blocks) == 4]
        expected["stem"] = ("imagenet",)
        expected["name"] = (_nearest_depth(bottleneck), *four)
        if len(model.stage_sizes) not in (0, 4):
            expected["stage_sizes"] = ((2, 2, 2, 2),)
    if form == "timm":
        expected["width"] = (1.0,)
    return expected


def _nearest_depth(bottleneck: bool) -> str:
    return "resnet50" if bottleneck else "resnet18"


def _efficientnet(model: Any, form: str) -> Expected:
    expected: dict[str, tuple[Any, ...]] = {"width": (1.0,), "small_images": (False,)}
    if form != "timm":  # which has a setting for it
        expected["bn_epsilon"] = (1e-3,)
    return expected


def _regnet(model: Any, form: str) -> Expected:
    return {"small_images": (False,), "bn_epsilon": (1e-5,)}


def _vit(model: Any, form: str) -> Expected:
    expected: dict[str, tuple[Any, ...]] = {
        "position": ("learned", "sincos"),
        "relative_bias": ("none",),
        "layer_scale": (0.0,),
        "pool": ("class",),
    }
    if form != "hf" and not model.distillation_token:
        expected["pool"] = ("class", "mean")  # the norm's name says which
    return {**expected, **_visible(model, form)}


def _beit(model: Any, form: str) -> Expected:
    expected: dict[str, tuple[Any, ...]] = {
        "position": ("none",),
        "relative_bias": ("own", "shared"),
    }
    if model.layer_scale == 0:
        expected["layer_scale"] = (0.1,)
    return {**expected, **_visible(model, form)}


def _visible(model: Any, form: str) -> Expected:
    """The heads and the width follow from the size, where no config.json says them."""
    if form in ("timm", "hf"):
        return {}
    return {"heads": (0, SIZES[model.name].heads), "width": (1.0,)}
