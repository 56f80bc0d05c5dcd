"""`--protocol=layers`: a linear classifier on the cached features of every layer."""

import re
from typing import Any

from jssl.evaluate.context import Context
from jssl.evaluate.probes.layers import LAYER, layer_rows
from jssl.evaluate.probes.pooling import POOLED
from jssl.evaluate.protocol import DATA, KNN, Protocol, Row, need_labels


def needs(context: Context) -> str:
    """Returns what a run lacks for this protocol; '' if nothing."""
    if any(re.fullmatch(LAYER, name) for name in context.outputs):
        return need_labels(context)
    return "intermediates layerN, block_groupN or convN"


def run(context: Context) -> list[Row]:
    """Fits a linear classifier on the cached features of every layer."""
    train, test = context.sources
    pooled = context.probed is not context.embed
    options: dict[str, Any] = {"pooling": POOLED} if pooled else {}
    return layer_rows(
        context.probed,
        context.state,
        train,
        test,
        size=context.size,
        channels=context.channels,
        train_transform=context.transform(train),
        test_transform=context.transform(test),
        epochs=context.cached_epochs,
        seed=context.settings.seed,
        **options,
    )


PROTOCOL = Protocol(
    "layers",
    run,
    needs,
    (*KNN, *DATA, "epochs", "seed"),
    baseline=True,
    selects="the layer named best, on a fifth of the train split",
)
