"""Pixel values: conversion to float in [0, 1] and normalisation by the statistics of a data set."""

import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.types import Array

# name: mean and standard deviation of each channel, for values in [0, 1]
STATISTICS = {
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


def normalize(x: Array, name: str) -> Array:
    """Computes (x - mean) / std of each channel.

    Args:
        x: float [...,3] in [0, 1].
        name: of the statistics: 'none', 'half' (to [-1, 1]), 'imagenet', 'swav', 'cifar10',
            'cifar100' or 'stl10'.

    Returns:
        float32 [...,3].

    Raises:
        UserError: unknown name.

    Example:
        >>> print(normalize(jnp.array([[0.485, 0.456, 0.631]]), 'imagenet'))
        [[0. 0. 1.]]
    """
    if name not in STATISTICS:
        raise UserError(
            f"No statistics named '{name}' to normalise with (augment.normalize): "
            f"{nearest(name, STATISTICS)}."
        )
    x = x.astype(jnp.float32)
    if name == "none":
        return x
    mean, std = (
        jnp.array(v, jnp.float32).reshape((1,) * (x.ndim - 1) + (3,)) for v in STATISTICS[name]
    )
    return (x - mean) / std


def denormalize(x: Array, name: str) -> Array:
    """Inverts `normalize`: x std + mean of each channel, float32 [...,3].

    Raises:
        UserError: unknown name.

    Example:
        >>> x = denormalize(jnp.array([[0.0, 0.0, 1.0]]), 'imagenet')
        >>> [round(float(v), 3) for v in x[0]]
        [0.485, 0.456, 0.631]
    """
    zero, one = (normalize(jnp.full((3,), v, jnp.float32), name) for v in (0.0, 1.0))
    shape = (1,) * (x.ndim - 1) + (3,)
    return (x.astype(jnp.float32) - zero.reshape(shape)) / (one - zero).reshape(shape)
