"""Linear transfer: frozen features on the twelve data sets of the papers' tables."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import data
from jssl.data import CentreCrop
from jssl.data.subset import split_validation
from jssl.evaluate.context import BATCH, KINDS, RAW, Context
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.probes.logistic_table import small_pixels
from jssl.evaluate.protocol import DATA, Protocol, Row
from jssl.evaluate.protocols.transfer_sets import (
    ALL12,
    MAP11,
    TRANSFER_SETS,
    check_sizes,
    transfer_names,
)
from jssl.evaluate.protocols.transfer_table import Parts, transfer_row
from jssl.run.writers import say

Examples = tuple[np.ndarray, np.ndarray]


def needs(context: Context) -> str:
    """Returns what a run lacks for this protocol: a --source of the twelve; '' if nothing."""
    names = (context.settings.source or "").split(",")
    if names == [ALL12] or all(name in TRANSFER_SETS for name in names):
        return ""
    return f"one of its data sets: --source=pets, --source={ALL12} or another"


def describe(context: Context) -> Row:
    """Describes the data for the record; the fingerprints are in the rows."""
    names = transfer_names(context.settings.source)
    sources = {name: list(map(context.limited, _sources(name, context.settings.data_dir)))
               for name in names}  # fmt: skip
    return {
        "name": context.settings.source,
        "split": "test",
        "parts": {name: len(parts[-1]) for name, parts in sources.items()},
        "train_examples": {name: sum(map(len, parts[:-1])) for name, parts in sources.items()},
    }


def run(context: Context) -> list[Row]:
    """Returns a row per data set of `--source`: network, untrained network and raw pixels."""
    names = transfer_names(context.settings.source)
    sources = {name: _sources(name, context.settings.data_dir) for name in names}  # fails early
    network = context.compile(context.settings.feature)
    pixels = jax.jit(select_feature(small_pixels, BACKBONE))
    owners = {
        "trained": lambda: context.state,
        "untrained": lambda: context.untrained,
        RAW: lambda: None,
    }
    rows = []
    for name, parts in sources.items():
        known = TRANSFER_SETS[name]
        sizes = known.sizes
        if not context.settings.limit:
            sizes = check_sizes(name, tuple(map(len, parts)), parts[0].num_classes)
        parts = list(map(context.limited, parts))
        sets = {}
        for kind in KINDS:
            say(f"{name}: embedding, {kind}")
            embed = pixels if kind == RAW else network
            arrays = [_embed(context, embed, owners[kind](), source) for source in parts]
            if len(arrays) == 2:
                arrays = [*_split(context, arrays[0], sizes), arrays[1]]
            sets[kind] = Parts(*arrays)
        row = transfer_row(
            sets,
            metric=known.metric,
            num_classes=known.num_classes,
            name=_full_name(name, parts[-1]),
            preparation=f"short side {context.size} px bicubic, central square",
            validation="of its own split"
            if known.validation
            else f"drawn from the train split in proportion (seed {context.settings.seed})",
            feature=context.settings.feature,
            seed=context.settings.seed,
        )
        rows.append({**row, "source": name, "fingerprints": [s.fingerprint() for s in parts]})
    return rows


def _sources(name: str, data_dir: str | None) -> list[Any]:
    known = TRANSFER_SETS[name]
    config = ConfigDict({**data.DEFAULTS, "name": name, "data_dir": data_dir or ""})
    sources: list[data.Source] = []
    for split in filter(None, (known.train, known.validation, known.test)):
        config.train_split = split
        if known.metric == MAP11:
            sources.append(data.VocSource(split, data_dir=config.data_dir))
        else:
            sources.append(data.make_source(config, "train"))
    return sources


def _full_name(name: str, test: Any) -> str:
    lost = getattr(test, "missing", 0)
    return f"{name} (not among them {lost:,} that are lost)" if lost else name


def _embed(context: Context, embed: Any, state: Any, source: Any) -> Examples:
    crop = CentreCrop(context.size, resize=context.size)
    cropped = source.image_shape == (context.size, context.size, 3)
    return embed_source(
        embed,
        state,
        source,
        batch_size=BATCH,
        transform=None if cropped else crop,
        tell=say if state is context.state else None,
    )[:2]


def _split(
    context: Context, examples: Examples, sizes: tuple[int, ...]
) -> tuple[Examples, Examples]:
    """Splits off validation examples; of a dry run, as many in proportion, of any classes."""
    x, y = examples
    if context.settings.limit:
        count = max(1, round(len(y) * sizes[1] / (sizes[0] + sizes[1])))
        rows = np.arange(len(y))
        train, validation = rows[: max(1, len(y) - count)], rows[-count:]
    else:
        train, validation = split_validation(y, count=sizes[1], seed=context.settings.seed)
    return (x[train], y[train]), (x[validation], y[validation])


PROTOCOL = Protocol(
    "transfer",
    run,
    needs,
    (*DATA, "feature", "seed"),
    data=describe,
    selects="the regulariser, on the validation split",
    colours=True,
)
