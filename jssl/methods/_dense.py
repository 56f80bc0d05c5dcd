"""What the methods that learn from boxes or masks share."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl import augment, models
from jssl.methods.spec import Fields
from jssl.types import Array, PyTree, TrainState

MAX_OBJECTS = 64  # of a picture; as the data's
ANCHORS = "anchors"  # in place of a file of proposals
PLAIN_SIDE = 224  # of the pictures with which AlexNet and VGG-16 are pre-trained
NEW = ("cls_score", "bbox_pred", "score")  # no part of a pre-trained AlexNet or VGG-16
BIAS = r"(^|/)(conv\d+|fc\d|cls_score|bbox_pred)/bias$"  # not of batch normalisation
CONVOLUTIONS = r"^encoder/(conv|bn)\d+/"


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


def proposal_fields(config: Any) -> Fields:
    """Returns those of `detection_fields`, and boxes where objects may be.

    proposals: [P,4], as `boxes`; live: bool [P], which of them are not padding. P is
    `max_proposals` of the method's section, or the number of anchor boxes of the largest picture.
    """
    section, side = config[config.method], config.augment.size
    count = section.max_proposals
    if section.proposals == ANCHORS:
        shorter = min(side, max(*section.sides, section.test_side))
        cells = -(-shorter // section.anchor_stride) * -(-side // section.anchor_stride)
        count = cells * len(section.anchor_sizes) * len(section.anchor_ratios)
    boxes: Fields = {"proposals": ((count, 4), "float32"), "live": ((count,), "bool")}
    return {**detection_fields(config), **boxes}


def dense_embed(config: Any, *, side: int = 0) -> Callable[..., Any]:
    """Makes `embed`: the features of the encoder as it was pre-trained, without the new layers.

    Args:
        config: of the run.
        side: to which images are resized, as dense layers fix it; 0: they are not.
    """
    encoder = models.build(config.model, dtype=jnp.dtype(config.dtype))
    statistics = augment.statistics_of(config.augment)

    def embed(state: TrainState, images: Array) -> tuple[Array, dict[str, Array]]:
        variables = {
            kind: tree["encoder"]
            for kind, tree in (("params", state.params), ("batch_stats", state.batch_stats))
            if "encoder" in tree
        }
        x = augment.normalize(augment.to_float(images), statistics)
        if side and x.shape[1:3] != (side, side):
            x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "bilinear")
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


def in_encoder(tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """{'conv1', ..., 'fc7', 'score'} -> {'encoder': as of a `PlainNet`, 'score'}.

    Dense layers that are convolutions take the shape of a dense layer.
    """
    encoder = {name: leaves for name, leaves in tree.items() if name not in NEW}
    for name in ("fc6", "fc7"):
        if name in encoder:
            kernel = encoder[name]["kernel"]
            flat = kernel.reshape(-1, kernel.shape[-1])
            encoder[name] = {**encoder[name], "kernel": flat}
    return {"encoder": encoder, **{k: leaves for k, leaves in tree.items() if k in NEW}}


def out_of_encoder(tree: Mapping[str, PyTree], *, cells: int = 0) -> dict[str, PyTree]:
    """The inverse of `in_encoder`.

    Args:
        tree: parameters or running statistics.
        cells: side of the map that fc6 sees, where fc6 and fc7 are convolutions; 0: they are dense.
    """
    encoder = dict(tree["encoder"])
    for name, side in (("fc6", cells), ("fc7", 1)):
        if cells and name in encoder:
            kernel = encoder[name]["kernel"]
            whole = kernel.reshape(side, side, -1, kernel.shape[-1])
            encoder[name] = {**encoder[name], "kernel": whole}
    return {**encoder, **{k: leaves for k, leaves in tree.items() if k != "encoder"}}
