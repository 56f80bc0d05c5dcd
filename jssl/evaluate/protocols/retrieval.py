"""`--protocol=retrieval`: Oxford5k and Paris6k, original and revisited, by R-MAC of the last map.

The steps are those of DeepCluster's eval_retrieval.py; the data is described in
`jssl.data.landmarks`. Images keep their aspect ratio, so they have many sizes: the network is
compiled once for each size, and only the programs of one size are kept.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment
from jssl.data.decode import Picture
from jssl.data.landmarks import SETS, Landmarks, layout, read_landmarks
from jssl.errors import UserError, nearest
from jssl.evaluate.context import KINDS, RAW, Context
from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.probes.rmac import RegionMoments, region_max, rmac_vectors
from jssl.evaluate.protocol import DATA, Protocol
from jssl.evaluate.table import metric_row
from jssl.metrics.intervals import mean_interval
from jssl.metrics.retrieval_map import query_image, retrieval_map, revisited_roles
from jssl.run.writers import say
from jssl.types import Array

SIDE = 1024  # of the longer side of an image, in pixels
LEVELS = 3  # of R-MAC
DIM = 512  # of whitened regions, at most the number of channels
MAP = re.compile(r"(?:conv|block_group|stage)(\d+)|head")
FIRST = "oxford5k"  # example in messages


class _Picture(NamedTuple):
    path: Path
    roi: tuple[float, float, float, float] | None = None


def needs(context: Context) -> str:
    """Returns what a run lacks for this protocol; '' if nothing."""
    source, data_dir = context.settings.source, context.settings.data_dir
    if source not in SETS or not data_dir:
        return f"Oxford5k and Paris6k: --source={'|'.join(SETS)} and --data_dir=DIR"
    try:
        map_name(context)
        read_landmarks(source, data_dir)
    except UserError as error:
        return f"data that are missing: {error}"
    return ""


def describe(context: Context) -> dict[str, Any]:
    """Describes the examples for the record."""
    landmarks = _read(context)
    return {
        "name": landmarks.name,
        "split": "test",
        "examples": len(landmarks.images),
        "fingerprint": landmarks.fingerprint(),
        "queries": len(landmarks.queries),
        "corrupt": list(landmarks.corrupt),
        "whitening_examples": len(landmarks.other_images),
    }


def map_name(context: Context) -> str:
    """Returns the intermediate to use: --feature, or the last map [B,h,w,D] of the network."""
    maps = {name: shape for name, shape in context.outputs.items() if len(shape) == 4}
    feature = context.settings.feature
    if feature != BACKBONE:
        if feature not in maps:
            raise UserError(f"There is no map '{feature}' [B,h,w,D]: {nearest(feature, maps)}.")
        return feature
    ranked = {
        name: int(match[1]) if match[1] else 1_000
        for name in maps
        if (match := MAP.fullmatch(name))
    }
    if not ranked:
        raise UserError(
            "Protocol 'retrieval' uses the last map of a convolutional network: expected convN, "
            f"block_groupN or stageN, found {', '.join(context.outputs)}."
        )
    return max(ranked, key=ranked.__getitem__)


def conv_map(embed: Callable[..., Any], name: str) -> Callable[[Any, Array], Array]:
    """Restricts `embed` to one map, for images of any size.

    Dense layers, whose kernels fix the image size, return zeros: no map follows one.

    Args:
        embed: `Method.embed`.
        name: of the intermediate.

    Returns:
        `(state, images [B,H,W,3]) -> float32 [B,h,w,D]`, to be jitted.
    """

    def skip_dense(call, args, kwargs, context):
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            return jnp.zeros((*args[0].shape[:-1], context.module.features), args[0].dtype)
        return call(*args, **kwargs)

    def apply(state: Any, images: Array) -> Array:
        with nn.intercept_methods(skip_dense):
            return embed(state, images)[1][name].astype(jnp.float32)

    return apply


def run(context: Context) -> list[dict[str, Any]]:
    """Computes mean average precision: checkpoint, untrained network and raw pixels."""
    landmarks, feature = _read(context), map_name(context)
    network, pixels = conv_map(context.embed, feature), lambda state, x: augment.to_float(x)
    maps = {"trained": network, "untrained": network, RAW: pixels}
    owners = {"trained": context.state, "untrained": context.untrained, RAW: None}

    # One function for both states of the network: it is compiled once.
    regions = {map_of: _regions_of(map_of) for map_of in (network, pixels)}
    moments = {kind: RegionMoments() for kind in KINDS}
    programs: dict[str, tuple[Any, ...]] = {
        kind: (regions[maps[kind]], owners[kind]) for kind in KINDS
    }
    for _, kind, region in _sweep([_Picture(p) for p in landmarks.other_images], programs):
        moments[kind].add(region)
    whitening = {
        kind: moments[kind].whitening(dim=min(DIM, len(moments[kind].total))) for kind in KINDS
    }
    vectors = {map_of: _vector_of(map_of) for map_of in (network, pixels)}
    programs = {kind: (vectors[maps[kind]], owners[kind], whitening[kind]) for kind in KINDS}
    database = _vectors([_Picture(path) for path in landmarks.images], programs)
    queries = _vectors([_Picture(q.path, q.roi) for q in landmarks.queries], programs)
    rows: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        similarity = queries[kind] @ database[kind].T
        protocol = _protocol(landmarks, whitening[kind].components.shape)
        for metric, precisions in _precisions(landmarks, similarity).items():
            row = metric_row(
                "retrieval",
                metric=metric,
                value=float(precisions.mean()),
                ci95=mean_interval(precisions, seed=context.settings.seed),
                count=len(precisions),
                feature="raw pixels" if kind == RAW else f"{kind} {feature}",
                protocol=protocol,
                kind=kind,
            )
            rows.setdefault(metric, row)["numbers"] |= row["numbers"]
    return list(rows.values())


def _read(context: Context) -> Landmarks:
    source, data_dir = context.settings.source, context.settings.data_dir
    if source not in SETS:
        raise UserError(
            f"Protocol 'retrieval' needs a set to retrieve from; found --source={source}: "
            f"{nearest(str(source), SETS)}. {layout(FIRST, data_dir or 'DIR')}"
        )
    if not data_dir:
        raise UserError(f"--data_dir is missing. {layout(source, 'DIR')}")
    landmarks = read_landmarks(source, data_dir)
    return landmarks.few(context.settings.limit) if context.settings.limit else landmarks


def _precisions(landmarks: Landmarks, similarity: np.ndarray) -> dict[str, np.ndarray]:
    """Returns metric -> average precision of each query that has positives."""
    lists, count = landmarks.lists, landmarks.num_positive
    roles: Mapping[str, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]
    if count is not None:
        roles = {"mAP": (lists["positive"], lists["junk"])}
    else:
        roles = {f"{name} mAP": pair for name, pair in revisited_roles(**lists).items()}
    precisions = {}
    for metric, (positives, junk) in roles.items():
        if any(positives) or count is not None:
            _, each = retrieval_map(similarity, positives, junk, num_positive=count)
            precisions[metric] = each[~np.isnan(each)]
    return precisions


def _protocol(landmarks: Landmarks, shape: tuple[int, ...]) -> str:
    expected, original = SETS[landmarks.name], landmarks.num_positive is not None
    images, queries = len(landmarks.images), len(landmarks.queries)
    parts = [
        f"R-MAC of {LEVELS} levels of the map of {shape[0]} channels, longer side {SIDE} px "
        "bilinear, queries cropped after that",
        f"whitened to {shape[1]} on the regions of {len(landmarks.other_images):,} images of "
        f"{expected.other}",
        "dot product, junk left out, trapezoids",
        "the query's image in the database" if original else "revisited lists",
        f"{queries} queries, {images:,} images of {landmarks.name}",
    ]
    if landmarks.corrupt:
        parts.append(f"{len(landmarks.corrupt)} corrupt images skipped")
    if (images, queries) != (expected.images, expected.queries):
        parts.append(
            f"NOT the whole set of {expected.images:,} images and {expected.queries} queries"
        )
    return ", ".join(parts)


def _regions_of(maps: Callable[..., Array]) -> Callable[..., Array]:
    return lambda state, image: region_max(maps(state, image), levels=LEVELS)


def _vector_of(maps: Callable[..., Array]) -> Callable[..., Array]:
    return lambda state, image, whitening: rmac_vectors(
        maps(state, image), whitening, levels=LEVELS
    )


def _vectors(
    pictures: Sequence[_Picture], programs: Mapping[str, tuple[Any, ...]]
) -> dict[str, np.ndarray]:
    """Returns kind -> vectors float32 [M,dim], in the order of the pictures."""
    rows: dict[str, list[Any]] = {kind: [None] * len(pictures) for kind in programs}
    for i, kind, vector in _sweep(pictures, programs):
        rows[kind][i] = vector[0]
    return {kind: np.stack(vectors) for kind, vectors in rows.items()}


def _sweep(
    pictures: Sequence[_Picture], programs: Mapping[str, tuple[Any, ...]]
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Applies each program to each picture, grouped by size.

    Args:
        pictures: to read.
        programs: kind -> (function, its first argument, those after the image).

    Yields:
        Index of the picture, kind, output.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        height, width = Picture.read(picture.path).size()
        by_size.setdefault(_scaled_size((width, height), picture.roi), []).append(i)
    say(f"{len(pictures):,} images of {len(by_size):,} sizes, each compiled once")
    for size in sorted(by_size):
        # New functions, so that the programs of the last size are freed.
        compiled = {
            f: jax.jit(lambda *values, f=f: f(*values))
            for f in {program[0] for program in programs.values()}
        }
        for i in by_size[size]:
            image = _pixels(pictures[i])[None]
            for kind, (function, state, *args) in programs.items():
                try:
                    output = compiled[function](state, image, *args)
                except ValueError as error:  # the map is too small for the regions
                    raise UserError(
                        f"Picture '{pictures[i].path}' is too small for R-MAC: {image.shape[1]} x "
                        f"{image.shape[2]} px (height x width), region {pictures[i].roi}: {error}"
                    ) from error
                yield i, kind, np.asarray(output)


def _scaled_size(size: tuple[int, int], roi: Any) -> tuple[int, int]:
    """Returns width and height of the output of `query_image` for a picture of this size."""
    ratio = SIDE / max(size)
    width, height = (int(np.round(side * ratio)) for side in size)
    if roi is None:
        return width, height
    left, top, right, bottom = np.round(np.asarray(roi) * ratio).astype(int).tolist()
    return min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)


def _pixels(picture: _Picture) -> np.ndarray:
    pixels = Picture.read(picture.path).pixels()
    return query_image(pixels, size=SIDE, roi=picture.roi)


PROTOCOL = Protocol(
    "retrieval", run, needs, (*DATA, "feature", "seed"), data=describe, colours=True
)
