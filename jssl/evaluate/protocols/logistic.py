"""`--protocol=logistic`: logistic regression on frozen features, with a selected regulariser."""

from jssl.evaluate.context import KINDS, Context
from jssl.evaluate.probes.logistic_table import logistic_row
from jssl.evaluate.protocol import DATA, Protocol, Row, need_labels


def run(context: Context) -> list[Row]:
    """Fits 45 regularisers by L-BFGS and selects one on held-out training examples."""
    row = logistic_row(
        {kind: context.features(kind) for kind in KINDS},
        num_classes=context.num_classes,
        name=context.sources[1].name,
        feature=context.settings.feature,
        seed=context.settings.seed,
    )
    return [row]


PROTOCOL = Protocol(
    "logistic",
    run,
    need_labels,
    (*DATA, "feature", "seed"),
    selects="the regulariser, on a fifth of the train split",
)
