"""`--protocol=classifier`: the run's own classifier on the test split."""

import io
from collections.abc import Sequence

import numpy as np

from jssl import data
from jssl.errors import UserError
from jssl.evaluate.confusion import (
    MOST_CLASSES,
    confusion_counts,
    confusion_csv,
    confusion_picture,
)
from jssl.evaluate.context import Context
from jssl.evaluate.own_classifier import classifier_rows
from jssl.evaluate.protocol import DATA, Protocol, Row, need_classifier
from jssl.evaluate.table import classifier_scores
from jssl.run import workdir
from jssl.run.writers import say


def run(context: Context) -> list[Row]:
    """Computes top-1, top-5 and the accuracy by class of the logits on evaluation crops."""
    if "logits" not in context.outputs:
        raise UserError(f"Protocol 'classifier' needs {need_classifier(context)}.")
    test = context.sources[1]
    if difference := context.other_classes(test):
        raise UserError(
            f"The run's own classifier and data set '{test.name}' have different classes: found "
            f"{difference}; expected the same names in the same order. Type another --source."
        )
    logits, labels = context.classified
    counts = confusion_counts(logits.argmax(axis=1), labels, logits.shape[1])
    first, *others = rows(context)
    names = _names(context, logits.shape[1])
    first["numbers"]["trained"]["per_class"] = per_class(counts, names)
    return [first, *others]


def rows(context: Context) -> list[Row]:
    """Returns top-1, top-5 and the mean per class of the network and of the untrained one.

    Imported weights were not trained from a first state of ours: they have no untrained network.
    """
    sets = {"trained": context.classified}
    if not context.imported:
        sets["untrained"] = context.classify("untrained")
    return classifier_rows(sets, name=context.sources[1].name)


def top1(context: Context) -> float:
    """Computes top-1 of the network alone."""
    return float(classifier_scores(*context.classified)["top1"])


def per_class(counts: np.ndarray, names: Sequence[str]) -> list[Row]:
    """Returns the accuracy within each class that has examples.

    Args:
        counts: int [K,K] from `confusion_counts`.
        names: of the K classes.

    Example:
        >>> per_class(np.array([[3, 1], [0, 0]]), ['cat', 'dog'])
        [{'class': 'cat', 'top1': 0.75, 'count': 4}]
    """
    totals = counts.sum(axis=1).tolist()
    return [
        {"class": name, "top1": int(counts[i, i]) / total, "count": total}
        for i, (name, total) in enumerate(zip(names, totals, strict=True))
        if total
    ]


def files_of(context: Context) -> dict[str, bytes]:
    """Returns the confusion matrix as a table and as a picture."""
    logits, labels = context.classified
    K = logits.shape[1]
    if K > MOST_CLASSES:
        say(f"NOTE no confusion matrix is written: {K:,} classes are more than {MOST_CLASSES:,}")
        return {}
    counts, names = confusion_counts(logits.argmax(axis=1), labels, K), _names(context, K)
    share = 100 * counts.trace() / counts.sum()
    title = f"top-1 {share:.1f} % of {counts.sum():,} test examples of {context.sources[1].name}"
    buffer = io.BytesIO()
    confusion_picture(counts, names, title=title).save(buffer, "PNG")
    return {"confusion.csv": confusion_csv(counts, names), "confusion.png": buffer.getvalue()}


def _names(context: Context, K: int) -> Sequence[str]:
    """Returns the names of the classifier's classes, or their numbers if they are not known."""
    of_data = data.class_names(context.sources[1])
    for names in (workdir.read_classes(context.folder), of_data):
        if names and len(names) == K:
            return names
    return [str(i) for i in range(K)]


PROTOCOL = Protocol("classifier", run, need_classifier, DATA, files=files_of)
