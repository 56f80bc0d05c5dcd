"""`--protocol=grid`: the linear probe on CPC's grid of patches."""

from typing import Any

import jax

from jssl import augment
from jssl.errors import UserError
from jssl.evaluate.context import RAW, Context
from jssl.evaluate.embed import embed_source, select_feature
from jssl.evaluate.probes.patch_grid import grid_row, raw_grid
from jssl.evaluate.protocol import DATA, KNN, Protocol, Row, need_labels


def needs(context: Context) -> str:
    """Returns what a run lacks for this protocol; '' if nothing."""
    return need_labels(context) if context.grid_feature else "a grid of patches: a run of cpc"


def run(context: Context, kinds: tuple[str, ...] = ("trained",)) -> list[Row]:
    """Runs the linear probe on the grid of the checkpoint, or of each of `kinds`."""
    config, feature = context.config, context.grid_feature
    if feature is None:
        raise UserError(
            f"Method '{config.method}' has no grid of features, which --protocol=grid needs. "
            "Type --protocol=knn,linear."
        )
    section = config[config.method]
    pixels = raw_grid(patch=section.patch, stride=section.stride)
    side = augment.patch_grid(config.augment.size, section.patch, section.stride)
    sets = {}
    for kind in kinds:
        compiled = jax.jit(pixels if kind == RAW else select_feature(context.embed, feature))
        arrays: list[Any] = []
        for source in context.sources:
            flat, labels, _ = embed_source(
                compiled,
                context.owner(kind),
                source,
                batch_size=context.batch_size,
                transform=context.transform(source),
            )
            arrays += [flat.reshape(len(flat), side, side, -1), labels]
        x, y, test_x, test_y = arrays
        sets[kind] = x, y, test_x, test_y
    row = grid_row(
        sets,
        num_classes=context.num_classes,
        name=context.sources[1].name,
        epochs=context.cached_epochs,
    )
    return [row]


PROTOCOL = Protocol("grid", run, needs, (*KNN, *DATA, "epochs"), baseline=True)
