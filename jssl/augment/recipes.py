"""The augmentation recipes and their options."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.augment import _blur, _boxes, _color, _geometry, _operations, _policy
from jssl.errors import UserError, nearest

# All options, with SimCLR's values. A probability (`..._p`) is one number, or one for each view.
OPTIONS: dict[str, Any] = {
    "views": 2,
    "crop": "random",  # random | center | none (resized whole) | pad (reflected, then shifted)
    "crop_pad": 4,  # of crop 'pad', pixels on each side
    "sampler": "tf",  # tf | torchvision | byol, see sample_box
    "scale": (0.08, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "proportion": 0.875,  # of crop 'center'
    "resize": "bicubic",  # see crop_resize
    "antialias": False,
    "clip_crop": False,  # clip the overshoot of the resize at once, and not only at the end
    "flip_p": 0.5,
    "color": "tf",  # tf | torchvision
    "jitter_p": 0.8,
    "jitter": (0.8, 0.8, 0.8, 0.2),  # of brightness, contrast, saturation, hue, times strength
    "strength": 1.0,
    "brightness": "multiplicative",  # multiplicative | additive
    "gray_p": 0.2,
    "gray_first": False,  # gray before jitter
    "blur_p": 0.5,
    "blur_sigma": (0.1, 2.0),
    "blur_radius": None,  # taps on each side; None: (size // 10) // 2
    "blur_padding": "zero",  # zero | symmetric | reflect
    "solarize_p": 0.0,
    "solarize_threshold": 0.5,
    "policy_ops": 0,  # operations of RandAugment, before the colour; see rand_augment
    "policy_form": "tf",  # tf | timm | autoaugment (of two operations)
    "policy_magnitude": 10.0,
    "policy_contrast": "mean",  # mean | histogram
    "policy_lengths": "relative",  # relative | pixels
    "policy_translate": 100.0,
    "policy_cutout": 40.0,
    "policy_chance": 0.5,  # of form timm
    "policy_deviation": 0.5,  # of the magnitude, of form timm
    "policy_fill": (128, 128, 128),  # levels of pixels from outside
    "cutout_pad": 0,  # half side of a grey square cut out of every view, pixels; 0: none
}
_NO_COLOR = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
_BYOL_COLOR = {
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "blur_p": (1.0, 0.1),
    "solarize_p": (0.0, 0.2),
}
# PIL in torchvision: bilinear, always antialiased; its blur has no zero padding and no radius, so
# eight taps on each side: four times the largest sigma.
_TORCHVISION = {
    "sampler": "torchvision",
    "resize": "bilinear",
    "antialias": True,
    "color": "torchvision",
    "blur_radius": 8,
    "blur_padding": "symmetric",
}
RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {},
    "simclr_cifar": {"strength": 0.5, "blur_p": 0.0},
    "byol": {**_BYOL_COLOR, "sampler": "byol", "clip_crop": True, "brightness": "additive"},
    "moco_v1": {
        **_TORCHVISION,
        "scale": (0.2, 1.0),
        "jitter": (0.4, 0.4, 0.4, 0.4),
        "jitter_p": 1.0,
        "gray_first": True,
        "blur_p": 0.0,
    },
    "moco_v2": {**_TORCHVISION, "scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1)},
    # scale is the ResNet's; the ViT's is (0.08, 1)
    "moco_v3": {
        **_TORCHVISION,
        **_BYOL_COLOR,
        "scale": (0.2, 1.0),
        "solarize_threshold": 128 / 255,
    },
    "moco_cifar": {**_TORCHVISION, "jitter": (0.4, 0.4, 0.4, 0.1), "blur_p": 0.0},
    # for the tokenizer, the same box is also resized with lanczos: see methods/beit.py
    "beit": {
        **_TORCHVISION,
        "views": 1,
        "resize": "bicubic",
        "clip_crop": True,
        "jitter": (0.4, 0.4, 0.4, 0.0),
        "jitter_p": 1.0,
        "gray_p": 0.0,
        "blur_p": 0.0,
    },
    "crop_flip": {**_NO_COLOR, "views": 1},
    "noisy_student": {**_NO_COLOR, "views": 1, "clip_crop": True, "policy_ops": 2},
    "noisy_student_svhn": {
        **_NO_COLOR,
        "views": 1,
        "crop": "pad",
        "flip_p": 0.0,
        "policy_ops": 2,
        "policy_magnitude": 5.0,
        "policy_lengths": "pixels",
        "policy_translate": 4.0,
        "policy_cutout": 4.0,
        "cutout_pad": 8,
    },
    "center_crop": {**_NO_COLOR, "views": 1, "crop": "center", "flip_p": 0.0},
    "none": {**_NO_COLOR, "views": 1, "crop": "none", "flip_p": 0.0},
}
# the options that are probabilities
CHANCES = tuple(name for name in OPTIONS if name.endswith("_p"))
_CHOICES = {
    "crop": ("random", "center", "none", "pad"),
    "sampler": _boxes.SAMPLERS,
    "resize": tuple(_geometry.RESIZES),
    "color": _color.SEMANTICS,
    "brightness": _color.BRIGHTNESS,
    "blur_padding": tuple(_blur.PADDINGS),
    "policy_contrast": _operations.CONTRASTS,
    "policy_form": _policy.FORMS,
    "policy_lengths": _policy.LENGTHS,
}


def resolve(name: str, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all options of a recipe, with the given ones replaced, after checking them.

    Args:
        name: one of `RECIPES`.
        size: of the views in pixels.
        options: some of `OPTIONS`.

    Returns:
        Every option; ranges are tuples, and a probability has one number for each view.

    Raises:
        UserError: unknown recipe, option or value, or a number out of range.

    Example:
        >>> resolve('byol', 224, {'gray_p': 0.1})['gray_p']
        (0.1, 0.1)
    """
    if name not in RECIPES:
        raise UserError(f"Unknown augmentation recipe '{name}': {nearest(name, RECIPES)}.")
    for option in options:
        if option not in OPTIONS:
            raise UserError(
                f"Unknown option '{option}' of augmentation '{name}': {nearest(option, OPTIONS)}."
            )
    o = {**OPTIONS, **RECIPES[name], **options}

    def refuse(option: str, expected: str) -> None:
        raise UserError(
            f"Option {option}={o[option]!r} of augmentation '{name}': expected {expected}."
        )

    if not isinstance(size, int) or size < 1:
        raise UserError(
            f"Augmentation '{name}' has size={size!r}: expected whole pixels, 1 or more."
        )
    if not isinstance(o["views"], int) or o["views"] < 1:
        refuse("views", "a whole number, 1 or more")
    for option, choices in _CHOICES.items():
        if o[option] not in choices:
            refuse(option, nearest(o[option], choices))
    for option, n in (("scale", 2), ("ratio", 2), ("blur_sigma", 2), ("jitter", 4)):
        expected = "four amplitudes" if n == 4 else "(low, high) with 0 < low <= high"
        if not isinstance(o[option], tuple | list) or len(o[option]) != n:
            refuse(option, expected)
        o[option] = tuple(float(v) for v in o[option])
        if n == 2 and not 0 < o[option][0] <= o[option][1]:
            refuse(option, expected)
    if o["scale"][1] > 1:
        refuse("scale", "shares of the area, at most 1")
    if min(o["jitter"]) * o["strength"] < 0 or o["jitter"][3] * o["strength"] > 0.5:
        refuse("jitter", "amplitudes of at least 0, and times strength a hue of at most 0.5")
    if not 0 < o["proportion"] <= 1:
        refuse("proportion", "a share of the shorter side, above 0 and at most 1")
    radius = o["blur_radius"]
    if radius is not None and (not isinstance(radius, int) or radius < 0):
        refuse("blur_radius", "whole pixels, 0 or more, or None")
    for option in ("policy_ops", "cutout_pad", "crop_pad"):
        if not isinstance(o[option], int) or o[option] < 0:
            refuse(option, "a whole number, 0 or more")
    for option in ("magnitude", "translate", "cutout", "deviation"):
        if not o[f"policy_{option}"] >= 0:
            refuse(f"policy_{option}", "a number, 0 or more")
    if not 0 <= o["policy_chance"] <= 1:
        refuse("policy_chance", "a chance in [0, 1]")
    fill = o["policy_fill"]
    if (
        not isinstance(fill, tuple | list)
        or len(fill) != 3
        or not 0 <= min(fill) <= max(fill) < 256
    ):
        refuse("policy_fill", "three levels in 0..255")
    if o["policy_form"] == "autoaugment" and o["policy_ops"] not in (0, _policy.PAIR):
        refuse("policy_ops", "2: AutoAugment has pairs of operations (or 0: none)")
    for option in CHANCES:
        chances = o[option] if isinstance(o[option], tuple | list) else [o[option]] * o["views"]
        numbers = all(isinstance(p, int | float) and 0 <= p <= 1 for p in chances)
        if len(chances) != o["views"] or not numbers:
            refuse(option, f"a chance in [0, 1], or one for each of the {o['views']} views")
        o[option] = tuple(float(p) for p in chances)
    return o


# Options whose operations need red, green and blue, with what each does.
OF_COLOURS = {
    "jitter_p": "colour jitter",
    "gray_p": "conversion to grey",
    "policy_ops": "RandAugment or AutoAugment",
    "cutout_pad": "a square of grey",
}


def check_channels(name: str, options: Mapping[str, Any], channels: int) -> None:
    """Refuses operations on colours of pictures that have other channels.

    Args:
        name: of the recipe.
        options: from `resolve`.
        channels: number of the pictures' channels.

    Raises:
        UserError: an operation that needs red, green and blue, with what turns it off.

    Example:
        >>> check_channels('crop_flip', resolve('crop_flip', 32, {}), 5)
    """
    if channels == 3:
        return
    used = [key for key in OF_COLOURS if np.any(options[key])]
    if used:
        flags = " ".join(f"--config.augment.options.{key}=0" for key in used)
        raise UserError(
            f"Augmentation '{name}' has {' and '.join(OF_COLOURS[key] for key in used)}, for red, "
            f"green and blue, found pictures of data.channels={channels}. Type {flags}."
        )
