"""`--protocol=mlp`: a multilayer perceptron on cached features, without augmentation."""

from typing import Any

from jssl.evaluate.context import KINDS, RAW, Context
from jssl.evaluate.probes.mlp import (
    BATCH,
    DROPOUT,
    EPOCHS,
    HIDDEN,
    LEARNING_RATE,
    fit_mlp,
    hidden_of,
)
from jssl.evaluate.probes.softmax_regression import linear_accuracy
from jssl.evaluate.protocol import DATA, Protocol, Row, need_labels
from jssl.evaluate.table import number


def mlp_protocol(*, epochs: int, bank: int, queries: int, name: str) -> str:
    """Returns the protocol text of `fit_mlp` with its defaults, without the feature.

    Example:
        >>> mlp_protocol(epochs=30, bank=3200, queries=1200, name='photos').split(', ')[-2:]
        ['3,200 train', '1,200 test examples of photos']
    """
    units = " and ".join(f"{n:,}" for n in HIDDEN)
    return (
        f"multilayer perceptron on cached features, hidden layers of {units} units, ReLU, dropout "
        f"{DROPOUT:g}, standardised by train statistics, no augmentation, Adam, lr "
        f"{LEARNING_RATE:g} cosine, weight decay 0, {epochs} epochs of batch {min(BATCH, bank)}, "
        f"last epoch, all fixed beforehand, {bank:,} train, {queries:,} test examples of {name}"
    )


def run(context: Context) -> list[Row]:
    """Fits the perceptron on features of the checkpoint, the untrained network, raw pixels."""
    settings = context.settings
    epochs = int(settings.epochs) or EPOCHS
    numbers: dict[str, Any] = {}
    for kind in KINDS:
        x, y, test_x, test_y = context.features(kind)
        text = mlp_protocol(
            epochs=epochs, bank=len(x), queries=len(test_x), name=context.sources[1].name
        )
        feature = RAW if kind == RAW else f"{kind} {settings.feature}"
        fit = fit_mlp(x, y, num_classes=context.num_classes, epochs=epochs, seed=settings.seed)
        scores = linear_accuracy(fit.mlp.head, hidden_of(fit.mlp, test_x), test_y)
        numbers[kind] = number(scores, feature, x.shape[1], text)
    top1 = {kind: entry["top1"] for kind, entry in numbers.items()}
    return [{"probe": "mlp", "protocol": text, "top1": top1, "numbers": numbers}]


PROTOCOL = Protocol("mlp", run, need_labels, (*DATA, "feature", "epochs", "seed"))
