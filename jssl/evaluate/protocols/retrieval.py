"""`--protocol=retrieval`: Oxford5k and Paris6k, original and revisited, by R-MAC of the last map.

The steps are those of DeepCluster's eval_retrieval.py; the data is described in
`jssl.data.landmarks`. Images keep their aspect ratio, so that the network is applied to maps of
many sizes: it is compiled once for each, and one size's programs are kept at a time.
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
DIM = 512  # to which regions are whitened, where a map has as many channels
MAP = re.compile(r"(?:conv|block_group|stage)(\d+)|head")
FIRST = "oxford5k"  # what messages name where no set was


class _Picture(NamedTuple):
    path: Path
    roi: tuple[float, float, float, float] | None = None


def needs(context: Context) -> str:
    """What a run lacks for this protocol, in words; '' where it lacks nothing."""
    source, data_dir = context.settings.source, context.settings.data_dir
    if source not in SETS or not data_dir:
        return f"Oxford5k and Paris6k: --source={'|'.join(SETS)} and --data_dir=DIR"
    try:
        map_name(context)
        read_landmarks(source, data_dir)
    except UserError as error:
        return f"what is not here: {error}"
    return ""


def describe(context: Context) -> dict[str, Any]:
    """What the record says of the examples."""
    found = _read(context)
    return {
        "name": found.name,
        "split": "test",
        "examples": len(found.images),
        "fingerprint": found.fingerprint(),
        "queries": len(found.queries),
        "corrupt": list(found.corrupt),
        "whitening_examples": len(found.other_images),
    }


def map_name(context: Context) -> str:
    """The intermediate that is described: --feature, or the last map [B,h,w,D] of the network."""
    maps = {name: shape for name, shape in context.outputs.items() if len(shape) == 4}
    asked = context.settings.feature
    if asked != BACKBONE:
        if asked not in maps:
            raise UserError(f"There is no map '{asked}' [B,h,w,D]: {nearest(asked, maps)}.")
        return asked
    ranked = {
        name: int(match[1]) if match[1] else 1_000
        for name in maps
        if (match := MAP.fullmatch(name))
    }
    if not ranked:
        raise UserError(
            "Protocol 'retrieval' describes the last map of a convolutional network; this one has "
            f"{', '.join(context.outputs)}. Expected convN, block_groupN or stageN."
        )
    return max(ranked, key=ranked.__getitem__)


def conv_map(embed: Callable[..., Any], name: str) -> Callable[[Any, Array], Array]:
    """Makes of `embed` a function of one map, for images of any size.

    Dense layers, whose kernels fix the size of the images, give zeros: no map comes after one.

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
    """Mean average precision of the checkpoint, the untrained net and raw pixels."""
    found, feature = _read(context), map_name(context)
    network, pixels = conv_map(context.embed, feature), lambda state, x: augment.to_float(x)
    maps = {"trained": network, "untrained": network, RAW: pixels}
    owners = {"trained": context.state, "untrained": context.untrained, RAW: None}

    # One function for both states of the network: it is compiled once.
    regions = {map_of: _regions_of(map_of) for map_of in (network, pixels)}
    moments = {kind: RegionMoments() for kind in KINDS}
    programs: dict[str, tuple[Any, ...]] = {
        kind: (regions[maps[kind]], owners[kind]) for kind in KINDS
    }
    for _, kind, found_regions in _sweep([_Picture(p) for p in found.other_images], programs):
        moments[kind].add(found_regions)
    whitening = {
        kind: moments[kind].whitening(dim=min(DIM, len(moments[kind].total))) for kind in KINDS
    }
    vectors = {map_of: _vector_of(map_of) for map_of in (network, pixels)}
    programs = {kind: (vectors[maps[kind]], owners[kind], whitening[kind]) for kind in KINDS}
    database = _vectors([_Picture(path) for path in found.images], programs)
    queries = _vectors([_Picture(q.path, q.roi) for q in found.queries], programs)
    rows: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        similarity = queries[kind] @ database[kind].T
        words = "raw pixels" if kind == RAW else f"{kind} {feature}"
        protocol = _protocol(found, whitening[kind].components.shape)
        for metric, each in _precisions(found, similarity).items():
            row = metric_row(
                "retrieval",
                metric=metric,
                value=float(each.mean()),
                ci95=mean_interval(each, seed=context.settings.seed),
                count=len(each),
                feature=words,
                protocol=protocol,
                kind=kind,
            )
            kept = rows.setdefault(metric, row)
            kept["numbers"] |= row["numbers"]
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
    return read_landmarks(source, data_dir)


def _precisions(found: Landmarks, similarity: np.ndarray) -> dict[str, np.ndarray]:
    """Average precision of each query that has positives, by metric."""
    roles: Mapping[str, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]
    if found.num_positive is not None:
        roles = {"mAP": (found.lists["positive"], found.lists["junk"])}
    else:
        roles = {f"{name} mAP": lists for name, lists in revisited_roles(**found.lists).items()}
    precisions = {}
    for metric, (positives, junk) in roles.items():
        if any(positives) or found.num_positive is not None:
            _, each = retrieval_map(similarity, positives, junk, num_positive=found.num_positive)
            precisions[metric] = each[~np.isnan(each)]
    return precisions


def _protocol(found: Landmarks, shape: tuple[int, ...]) -> str:
    expected, original = SETS[found.name], found.num_positive is not None
    words = [
        f"R-MAC of {LEVELS} levels of the map of {shape[0]} channels, longer side {SIDE} px "
        "bilinear, queries cropped after that",
        f"whitened to {shape[1]} on the regions of {len(found.other_images):,} images of "
        f"{expected.other}",
        "dot product, junk left out, trapezoids",
        "the query's image in the database" if original else "revisited lists",
        f"{len(found.queries)} queries, {len(found.images):,} images of {found.name}",
    ]
    if found.corrupt:
        words.append(f"{len(found.corrupt)} corrupt images skipped")
    if (len(found.images), len(found.queries)) != (expected.images, expected.queries):
        words.append(
            f"NOT the whole set of {expected.images:,} images and {expected.queries} queries"
        )
    return ", ".join(words)


def _regions_of(maps: Callable[..., Array]) -> Callable[..., Array]:
    return lambda state, image: region_max(maps(state, image), levels=LEVELS)


def _vector_of(maps: Callable[..., Array]) -> Callable[..., Array]:
    return lambda state, image, whitening: rmac_vectors(
        maps(state, image), whitening, levels=LEVELS
    )


def _vectors(
    pictures: Sequence[_Picture], programs: Mapping[str, tuple[Any, ...]]
) -> dict[str, np.ndarray]:
    """For each kind, float32 [M,dim] in the order of the pictures."""
    rows: dict[str, list[Any]] = {kind: [None] * len(pictures) for kind in programs}
    for i, kind, vector in _sweep(pictures, programs):
        rows[kind][i] = vector[0]
    return {kind: np.stack(found) for kind, found in rows.items()}


def _sweep(
    pictures: Sequence[_Picture], programs: Mapping[str, tuple[Any, ...]]
) -> Iterator[tuple[int, str, np.ndarray]]:
    """What each program makes of each picture, those of one size after another.

    Args:
        pictures: what to read.
        programs: kind -> (function, its first argument, those after the image).
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        height, width = Picture.read(picture.path).size()
        by_size.setdefault(_scaled_size((width, height), picture.roi), []).append(i)
    say(f"{len(pictures):,} images of {len(by_size):,} sizes, each compiled once")
    for size in sorted(by_size):
        # Fresh functions: with them go the programs of the size before.
        compiled = {
            f: jax.jit(lambda *values, f=f: f(*values))
            for f in {program[0] for program in programs.values()}
        }
        for i in by_size[size]:
            image = _pixels(pictures[i])[None]
            for kind, (function, state, *more) in programs.items():
                try:
                    found = compiled[function](state, image, *more)
                except ValueError as error:  # a map without room for the regions
                    raise UserError(
                        f"Picture '{pictures[i].path}' cannot be described at {image.shape[1]} x "
                        f"{image.shape[2]} px (height x width), region {pictures[i].roi}: {error}"
                    ) from error
                yield i, kind, np.asarray(found)


def _scaled_size(size: tuple[int, int], roi: Any) -> tuple[int, int]:
    """Width and height of what `query_image` makes of a picture of this size."""
    ratio = SIDE / max(size)
    width, height = (int(np.round(side * ratio)) for side in size)
    if roi is None:
        return width, height
    left, top, right, bottom = np.round(np.asarray(roi) * ratio).astype(int).tolist()
    return min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)


def _pixels(picture: _Picture) -> np.ndarray:
    pixels = Picture.read(picture.path).pixels()
    return query_image(pixels, size=SIDE, roi=picture.roi)


PROTOCOL = Protocol("retrieval", run, needs, (*DATA, "feature", "seed"), data=describe)
