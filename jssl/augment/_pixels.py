"""Pixel values: conversion to float in [0, 1] and normalisation by the statistics of a data set."""

from typing import Any

import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.types import Array

OWN = "own"  # the value of `augment.normalize` for `augment.mean` and `augment.std`
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation by channel
# name: mean and standard deviation of each channel, for values in [0, 1]
STATISTICS: dict[str, Statistics] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "swav": (
        (0.485, 0.456, 0.406),
        (0.228, 0.224, 0.225),
    ),  # a slip in SwAV's code
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "stl10": ((0.4467, 0.4398, 0.4066), (0.2241, 0.2215, 0.2239)),
}


def check_dtype(images: Array) -> None:
    """Raises ValueError unless the images are uint8 or float."""
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"Images are uint8, or float in [0, 1]; found {images.dtype}.")


def to_float(images: Array) -> Array:
    """Converts uint8 (divided by 255) or float in [0, 1] (unchanged) to float32, any shape.

    Raises:
        ValueError: another dtype.

    Example:
        >>> print(to_float(jnp.array([0, 255], jnp.uint8)))
        [0. 1.]
    """
    check_dtype(images)
    x = images.astype(jnp.float32)
    return x / 255 if images.dtype == jnp.uint8 else x


def statistics_of(section: Any, channels: int = 3) -> str | Statistics:
    """Returns what the `augment` section of a config says to normalise with, checked.

    Args:
        section: with `normalize`; of runs since 2026 also `mean` and `std`.
        channels: number C of channels of the pictures.

    Returns:
        A name for `normalize`, or mean and standard deviation, C numbers each.

    Raises:
        UserError: an unknown name, one without numbers for C channels, or a mean and a deviation
            that are missing, not used, zero or of another number.

    Example:
        >>> statistics_of({'normalize': 'own', 'mean': [0.2], 'std': [0.1]}, 1)
        ((0.2,), (0.1,))
    """
    name = section["normalize"]
    mean, std = tuple(section.get("mean", ())), tuple(section.get("std", ()))
    if name != OWN:
        if mean or std:
            raise UserError(
                f"Found augment.mean or augment.std with augment.normalize='{name}', which has "
                "numbers of its own: expected one of the two. Type --config.augment.normalize=own, "
                "or leave the mean and the deviation out."
            )
        mean_and_std(name, channels)
        return name
    numbers = f"{channels} number{'s' * (channels > 1)}"
    typed = [f"--config.augment.{k}='({', '.join([v] * channels)},)'"
             for k, v in (("mean", "0.5"), ("std", "0.25"))]  # fmt: skip
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"augment.normalize=own found {len(mean)} numbers in augment.mean and {len(std)} in "
            f"augment.std: expected {numbers} in each, one for each channel (data.channels). "
            f"Type for example {' '.join(typed)}; jssl.data.mean_and_std(source) computes them."
        )
    if not all(0 <= m <= 1 for m in mean) or not all(0 < s <= 1 for s in std):
        raise UserError(
            f"Found augment.mean={mean} and augment.std={std}: expected numbers for pixels in "
            f"[0, 1], each deviation above 0. Type for example {' '.join(typed)}."
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def mean_and_std(statistics: str | Statistics, channels: int = 3) -> Statistics:
    """Returns the mean and the standard deviation of each channel, for pixels in [0, 1].

    Args:
        statistics: from `statistics_of`.
        channels: number C of channels. 'none' and 'half' are the same for each.

    Raises:
        UserError: unknown name, or one without numbers for C channels.

    Example:
        >>> mean_and_std('half', 1)
        ((0.5,), (0.5,))
    """
    if not isinstance(statistics, str):
        return statistics
    if statistics not in STATISTICS:
        raise UserError(
            f"No statistics named '{statistics}' to normalise with (augment.normalize): "
            f"{nearest(statistics, [*STATISTICS, OWN])}."
        )
    mean, std = STATISTICS[statistics]
    if channels == len(mean):
        return mean, std
    if len(set(mean)) > 1:
        raise UserError(
            f"augment.normalize='{statistics}' is for red, green and blue, found data.channels="
            f"{channels}. Type --config.augment.normalize=none, or =own with "
            f"--config.augment.mean and --config.augment.std of {channels} numbers each, which "
            "jssl.data.mean_and_std(source) computes."
        )
    return mean[:1] * channels, std[:1] * channels


def in_words(section: Any) -> str:
    """Names what an `augment` section normalises with, with its numbers if they are the run's own.

    Example:
        >>> in_words({'normalize': 'imagenet'})
        'imagenet'
        >>> in_words({'normalize': 'own', 'mean': (0.2,), 'std': (0.1,)})
        'own mean (0.2) and deviation (0.1)'
    """
    if section["normalize"] != OWN:
        return section["normalize"]
    mean, std = (", ".join(f"{v:g}" for v in section[key]) for key in ("mean", "std"))
    return f"own mean ({mean}) and deviation ({std})"


def normalize(x: Array, name: str | Statistics) -> Array:
    """Computes (x - mean) / std of each channel.

    Args:
        x: float [...,C] in [0, 1].
        name: of the statistics: 'none', 'half' (to [-1, 1]), 'imagenet', 'swav', 'cifar10',
            'cifar100' or 'stl10'; or mean and standard deviation themselves, C numbers each.

    Returns:
        float32 [...,C].

    Raises:
        UserError: unknown name, or one that is not for C channels.

    Example:
        >>> print(normalize(jnp.array([[0.485, 0.456, 0.631]]), 'imagenet'))
        [[0. 0. 1.]]
        >>> print(normalize(jnp.array([[0.5]]), ((0.25,), (0.5,))))
        [[0.5]]
    """
    channels = x.shape[-1]
    numbers = mean_and_std(name, channels)
    x = x.astype(jnp.float32)
    if name == "none":
        return x
    mean, std = (
        jnp.array(v, jnp.float32).reshape((1,) * (x.ndim - 1) + (channels,)) for v in numbers
    )
    return (x - mean) / std


def denormalize(x: Array, name: str | Statistics) -> Array:
    """Inverts `normalize`: x std + mean of each channel, float32 [...,C].

    Raises:
        UserError: unknown name, or one that is not for C channels.

    Example:
        >>> x = denormalize(jnp.array([[0.0, 0.0, 1.0]]), 'imagenet')
        >>> [round(float(v), 3) for v in x[0]]
        [0.485, 0.456, 0.631]
    """
    channels = x.shape[-1]
    zero, one = (normalize(jnp.full((channels,), v, jnp.float32), name) for v in (0.0, 1.0))
    shape = (1,) * (x.ndim - 1) + (channels,)
    return (x.astype(jnp.float32) - zero.reshape(shape)) / (one - zero).reshape(shape)
