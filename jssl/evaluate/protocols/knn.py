"""`--protocol=knn`: weighted kNN with cosine similarity, on frozen features."""

from typing import Any

from jssl.evaluate.context import KINDS, RAW, Context
from jssl.evaluate.protocol import DATA, KNN, Protocol, Row, need_labels
from jssl.evaluate.table import knn_row


def run(context: Context, kinds: tuple[str, ...] = KINDS) -> list[Row]:
    """Weighted kNN with cosine similarity, of the checkpoint, the untrained net and raw pixels."""
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
    """What a table of other probes is held against: kNN without any training."""
    return run(context, ("untrained", RAW))


PROTOCOL = Protocol("knn", run, need_labels, (*KNN, *DATA, "feature"))
