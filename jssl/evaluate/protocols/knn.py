"""`--protocol=knn`: weighted kNN with cosine similarity, on frozen features."""

from typing import Any

from jssl.evaluate.context import KINDS, RAW, Context
from jssl.evaluate.protocol import DATA, KNN, Protocol, Row, need_labels
from jssl.evaluate.table import knn_row


def run(context: Context, kinds: tuple[str, ...] = KINDS) -> list[Row]:
    """Runs weighted kNN, cosine similarity: checkpoint, untrained network and raw pixels."""
    settings = context.settings
    numbers: dict[str, Any] = {}
    for kind in kinds:
        row = knn_row(
            *context.features(kind),
            num_classes=context.num_classes,
            name=context.sources[1].name,
            feature=settings.feature,
            k=settings.k,
            temperature=settings.temperature,
            kind=kind,
        )
        numbers |= row["numbers"]
    top1 = {kind: number["top1"] for kind, number in numbers.items()}
    return [{**row, "top1": top1, "numbers": numbers}]


def baselines(context: Context) -> list[Row]:
    """Runs the baselines of other probes: kNN on the untrained network and on raw pixels."""
    return run(context, ("untrained", RAW))


PROTOCOL = Protocol("knn", run, need_labels, (*KNN, *DATA, "feature"))
