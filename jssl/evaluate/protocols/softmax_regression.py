"""`--protocol=softmax_regression`: a linear classifier on cached features, without augmentation."""

from jssl.evaluate.context import KINDS, Context
from jssl.evaluate.protocol import DATA, Protocol, Row, need_labels
from jssl.evaluate.table import softmax_row


def run(context: Context) -> list[Row]:
    """Fits softmax regression by SGD: features of the checkpoint, untrained network, raw pixels."""
    row = softmax_row(
        {kind: context.features(kind) for kind in KINDS},
        num_classes=context.num_classes,
        name=context.sources[1].name,
        feature=context.settings.feature,
        linear_epochs=context.cached_epochs,
        seed=context.settings.seed,
    )
    return [row]


PROTOCOL = Protocol("softmax_regression", run, need_labels, (*DATA, "feature", "epochs", "seed"))
