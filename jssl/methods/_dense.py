"""What the methods that learn from boxes or masks share."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.methods.spec import Fields
from jssl.types import Array, PyTree, TrainState

MAX_OBJECTS = 64  # of a picture; as the data's


def detection_fields(config: Any) -> Fields:
    """Returns the arrays of a batch with boxes: {name: (shape after [B], dtype)}.

    image: [H,W,3], each picture at the upper left; size: its height and width in pixels;
    original: those of its file; boxes: [64,4], (x1, y1, x2, y2) in pixels of `image`; label: [64];
    valid, difficult: bool [64], which objects are not padding, and which are difficult.
    """
    side = config.augment.size
    return {
        "image": ((side, side, 3), "uint8"),
        "size": ((2,), "int32"),
        "original": ((2,), "int32"),
        "boxes": ((MAX_OBJECTS, 4), "float32"),
        "label": ((MAX_OBJECTS,), "int32"),
        "valid": ((MAX_OBJECTS,), "bool"),
        "difficult": ((MAX_OBJECTS,), "bool"),
        "index": ((), "int32"),
    }


def mask_fields(config: Any) -> Fields:
    """Returns the arrays of a batch with masks: {name: (shape after [B], dtype)}.

    image: [H,W,3], each picture at the upper left; size: its height and width in pixels; label:
    [H,W]: 0 background, 1 to K, 255 ignored.
    """
    side = config.augment.size
    return {
        "image": ((side, side, 3), "uint8"),
        "size": ((2,), "int32"),
        "label": ((side, side), "int16"),
        "index": ((), "int32"),
    }


def dense_embed(config: Any) -> Callable[..., Any]:
    """Makes `embed`: the features of the encoder as it was pre-trained, without the new layers."""
    encoder = models.build(config.model, dtype=jnp.dtype(config.dtype))
    statistics = augment.statistics_of(config.augment)

    def embed(state: TrainState, images: Array) -> tuple[Array, dict[str, Array]]:
        variables = {
            kind: tree["encoder"]
            for kind, tree in (("params", state.params), ("batch_stats", state.batch_stats))
            if "encoder" in tree
        }
        x = augment.normalize(augment.to_float(images), statistics)
        output: Any = encoder.apply(variables, x, train=False)
        return output

    return embed


def dense_views(key: Array, images: Array, first: Array) -> Array:
    """Returns the images in [0, 1] as one view: the host has transformed them with their boxes."""
    del key, first
    return augment.to_float(images)[None]


def unchanged_part(tx: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """Returns an optimiser that does not change parameters whose path matches a regex.

    Args:
        tx: the optimiser of the others.
        pattern: searched in the path, joined by '/'.
    """

    def labels(params: PyTree) -> PyTree:
        def label(path: tuple[Any, ...], _: Any) -> str:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return "unchanged" if re.search(pattern, name) else "trained"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.partition({"trained": tx, "unchanged": optax.set_to_zero()}, labels)
