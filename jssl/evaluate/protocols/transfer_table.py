"""Linear transfer on frozen features: regulariser selected on validation, evaluated once on test.

Kornblith et al., https://arxiv.org/abs/1805.08974; SimCLR, appendix B.8; BYOL, appendix D.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.probes.logistic_lbfgs import REGULARIZERS
from jssl.evaluate.probes.logistic_table import select_logistic
from jssl.evaluate.probes.softmax_regression import LinearHead, logits_of
from jssl.evaluate.protocols.transfer_sets import MAP11, PER_CLASS, TOP1
from jssl.evaluate.table import mean_per_class, metric_row
from jssl.metrics.average_precision import mean_average_precision
from jssl.metrics.intervals import binomial_interval, mean_per_class_interval
from jssl.run.checksums import tree_hash

Examples = tuple[Any, Any]
RESAMPLES = 200  # of mAP's bootstrap, which is slow


class Parts(NamedTuple):
    """Features float [M,D] with labels, int [M]; for 11-point mAP int [M,K] of 1, 0, -1."""

    train: Examples
    validation: Examples
    test: Examples


def transfer_score(head: LinearHead, features: Any, labels: Any, *, metric: str) -> float:
    """Computes one of the metrics of the transfer table, in [0, 1].

    Args:
        head: a linear classifier.
        features: float [M,D].
        labels: int [M]; for 11-point mAP int [M,K] of 1, 0 and -1 (ignored).
        metric: 'top-1', 'mean per class' or '11-point mAP'.

    Example:
        >>> head = LinearHead(np.eye(2), np.zeros(2))
        >>> transfer_score(head, np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 0]),
        ...                metric='top-1')
        0.5
    """
    return _score(np.asarray(logits_of(head, np.asarray(features, np.float32))), labels, metric)


def _score(logits: np.ndarray, labels: np.ndarray, metric: str) -> float:
    labels = np.asarray(labels)
    if metric == MAP11:
        return mean_average_precision(logits, labels == 1, labels == -1, definition="voc2007")[0]
    predicted = np.argmax(logits, axis=1)
    if metric == PER_CLASS:
        return mean_per_class(predicted, labels)
    if metric != TOP1:
        raise ValueError(f"metric is {TOP1}, {PER_CLASS} or {MAP11}, found '{metric}'.")
    return float(np.mean(predicted == labels))


def score_interval(
    logits: np.ndarray, labels: np.ndarray, *, metric: str, seed: int = 0
) -> tuple[float, float]:
    """Computes the 95 % interval of a metric over test images.

    Top-1: Wilson's interval. Mean per class: percentile bootstrap within each class, which for
    counts is a binomial draw. mAP: percentile bootstrap over images.

    Args:
        logits: float [M,K].
        labels: as in `transfer_score`.
        metric: as there.
        seed: of the bootstrap.

    Returns:
        (low, high) in [0, 1].

    Example:
        >>> low, high = score_interval(np.eye(2).repeat(8, axis=0), np.arange(16) // 4 % 2,
        ...                            metric='mean per class')
        >>> round(low, 2), round(high, 2)
        (0.25, 0.75)
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    if metric in (TOP1, PER_CLASS):
        right = np.argmax(logits, axis=1) == labels
        if metric == TOP1:
            return binomial_interval(int(right.sum()), len(right))
        return mean_per_class_interval(right, labels, seed=seed)
    draws = rng.integers(len(labels), size=(RESAMPLES, len(labels)))
    values = np.array([_score(logits[rows], labels[rows], metric) for rows in draws])
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def transfer_row(
    sets: Mapping[str, Parts],
    *,
    metric: str,
    num_classes: int,
    name: str,
    preparation: str,
    validation: str,
    feature: str = BACKBONE,
    regularizers: Sequence[float] = REGULARIZERS,
    reduction: str = "mean",
    seed: int = 0,
) -> dict[str, Any]:
    """Fits logistic regression on several feature sets of the same examples.

    The regulariser is selected by the set's metric on the validation examples, the classifier is
    fitted again on train and validation together, and evaluated once on the test examples.

    Args:
        sets: kind -> `Parts`; kinds are usually 'trained', 'untrained' and 'raw pixels'.
        metric: as in `transfer_score`.
        num_classes: K.
        name: of the data set.
        preparation: text of the preprocessing.
        validation: text of the origin of the validation examples.
        feature: name of the feature.
        regularizers: values of lambda to select from.
        reduction: 'sum' or 'mean', see `fit_logistic`: the papers do not say which.
        seed: of the bootstrap.

    Returns:
        A row as of `metric_row` with a number for each kind. Each number also has `regularizer`,
        `validation` (its metric there), `gradient` of the last fit and `head_sha256` of the
        classifier.

    Raises:
        UserError, ValueError: as `fit_logistic`.

    Example:
        >>> x, y = np.eye(4).repeat(5, axis=0), np.arange(4).repeat(5)
        >>> row = transfer_row({'trained': Parts((x, y), (x, y), (x, y))}, metric='top-1',
        ...                    num_classes=4, name='toy', preparation='none', validation='drawn',
        ...                    regularizers=(1e-3, 1e-2))
        >>> row['numbers']['trained']['value'], row['numbers']['trained']['regularizer']
        (1.0, 0.01)
    """
    numbers: dict[str, Any] = {}
    grid = sorted(regularizers)
    for kind, parts in sets.items():
        selection = select_logistic(
            parts.train,
            parts.validation,
            num_classes=num_classes,
            regularizers=regularizers,
            reduction=reduction,
            score=lambda head, x, y: transfer_score(head, x, y, metric=metric),
        )
        x, y = parts.test
        logits = np.asarray(logits_of(selection.head, np.asarray(x, np.float32)))
        fit = "one-vs-rest logistic" if metric == MAP11 else "logistic"
        protocol = (
            f"{fit} regression on cached features as they are, {preparation}, no augmentation, "
            f"L2 lambda of {len(grid)} from {grid[0]:g} to {grid[-1]:g} beside the {reduction} of "
            f"the losses, chosen by {metric} on {len(parts.validation[1]):,} validation examples "
            f"{validation}, fitted again with the {len(parts.train[1]):,} train examples, L-BFGS, "
            f"{len(y):,} test examples of {name}"
        )
        source = "raw pixels" if kind == "raw pixels" else f"{kind} {feature}"
        details = protocol.replace("lambda of", f"lambda = {selection.regularizer:.3g}, one of")
        row = metric_row(
            "transfer",
            metric=metric,
            value=_score(logits, y, metric),
            ci95=score_interval(logits, y, metric=metric, seed=seed),
            count=len(y),
            feature=source,
            protocol=f"{source} ({np.shape(x)[1]}-d), {details}",
            kind=kind,
        )
        numbers[kind] = row["numbers"][kind] | {
            "regularizer": selection.regularizer,
            "validation": float(selection.validation.max()),
            "gradient": selection.gradient,
            "head_sha256": tree_hash(selection.head._asdict()),
        }
    return {**row, "protocol": protocol, "source": name, "numbers": numbers}
