"""Logistic regression on frozen features of images with several labels, evaluated by mean AP."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.probes.logistic_lbfgs import REGULARIZERS, fit_logistic
from jssl.evaluate.probes.logistic_table import Selection
from jssl.evaluate.probes.softmax_regression import LinearHead
from jssl.evaluate.table import metric_row
from jssl.metrics.average_precision import mean_average_precision

# definition -> name in the table
METRICS = {"voc2007": "11-point mAP", "voc2010": "area mAP"}
RESAMPLES = 200  # bootstrap samples of the test images, for an interval


def select_multilabel(
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    regularizers: Sequence[float] = REGULARIZERS,
    definition: str = "voc2007",
) -> Selection:
    """Selects one lambda for all classes by mean AP on validation images, and fits again on both.

    Test images are not used. Of equally good values the largest is selected.

    Args:
        train, validation: features float [M,D] and labels int [M,K] of 1, 0 and -1 (ignored).
        regularizers: values of lambda to select from.
        definition: of average precision, see `average_precision`.

    Returns:
        A `Selection`, whose `validation` is the mean AP of each lambda.

    Raises:
        UserError, ValueError: as `fit_logistic` and `mean_average_precision`.

    Example:
        >>> x, y = np.eye(3).repeat(4, axis=0), np.eye(3, dtype=int).repeat(4, axis=0)
        >>> result = select_multilabel((x, y), (x, y), regularizers=(1e-3, 1e-2))
        >>> result.regularizer, result.validation
        (0.01, array([1., 1.]))

    Reference: BYOL, https://arxiv.org/abs/2006.07733, appendix D: one against the rest, 11 points.
    """
    num_classes = np.shape(train[1])[1]
    path = fit_logistic(*train, num_classes=num_classes, regularizers=regularizers)
    values = np.array(
        [
            _mean_ap(_scores(path.head(i), validation[0]), validation[1], definition)
            for i in range(len(path.regularizers))
        ]
    )
    best = float(path.regularizers[values == values.max()].max())
    x, y = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    refit = fit_logistic(x, y, num_classes=num_classes, regularizers=(best,))
    return Selection(refit.head(0), best, values, float(refit.gradients[0]))


def multilabel_rows(
    sets: Mapping[str, Sequence[tuple[Any, Any]]],
    *,
    name: str,
    feature: str = BACKBONE,
    regularizers: Sequence[float] = REGULARIZERS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Computes 11-point and area mean AP of several feature sets of the same images.

    Args:
        sets: kind -> three pairs, of train, validation and test: features float [M,D] and labels
            int [M,K] of 1, 0 and -1. The test images are used once.
        name: of the data set.
        feature: name of the feature.
        regularizers: values of lambda to select from.
        seed: of the bootstrap.

    Returns:
        Two rows of `metric_row`; each number also has `regularizer`, `validation_map` and
        `average_precision` of each class.

    Raises:
        UserError, ValueError: as `select_multilabel`.

    Example:
        >>> pair = np.eye(3).repeat(4, axis=0), np.eye(3, dtype=int).repeat(4, axis=0)
        >>> rows = multilabel_rows({'trained': [pair] * 3}, name='toy', regularizers=(1e-3,))
        >>> [(row['metric'], row['numbers']['trained']['value']) for row in rows]
        [('11-point mAP', 1.0), ('area mAP', 1.0)]
    """
    rows: dict[str, dict[str, Any]] = {}
    grid = sorted(regularizers)
    for kind, (train, validation, (test_x, test_y)) in sets.items():
        selection = select_multilabel(train, validation, regularizers=regularizers)
        scores = _scores(selection.head, test_x)
        protocol = (
            "one-vs-rest logistic regression on cached features as they are, no augmentation, L2 "
            f"lambda = {selection.regularizer:.3g}, one of {len(grid)} from {grid[0]:g} to "
            f"{grid[-1]:g} beside the mean of the losses, chosen by 11-point mAP on "
            f"{len(validation[1]):,} validation images, fitted again on all "
            f"{len(train[1]) + len(validation[1]):,}, L-BFGS, difficult ones left out, "
            f"{len(test_y):,} test images of {name}"
        )
        for definition, metric in METRICS.items():
            row, each = average_precision_row(
                "multi-label",
                scores,
                test_y,
                definition=definition,
                metric=metric,
                feature="raw pixels" if kind == "raw pixels" else f"{kind} {feature}",
                protocol=protocol,
                kind=kind,
                seed=seed,
            )
            row["numbers"][kind] |= {
                "regularizer": selection.regularizer,
                "validation_map": float(selection.validation.max()),
                "average_precision": each,
            }
            rows.setdefault(metric, row)["numbers"].update(row["numbers"])
    return list(rows.values())


def average_precision_row(
    probe: str,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    definition: str,
    seed: int = 0,
    **words: str,
) -> tuple[dict[str, Any], list[float | None]]:
    """Returns a row of mean AP, with a bootstrap interval over images, and the AP of each class.

    A class without positives has None, and is left out of the mean.

    Args:
        probe: see `metric_row`.
        scores: float [M,K].
        labels: int [M,K] of 1, 0 and -1 (ignored).
        definition: see `average_precision`.
        seed: of the bootstrap.
        **words: `metric`, `feature`, `protocol` and `kind` of `metric_row`.

    Example:
        >>> scores, labels = np.arange(8.0)[:, None], np.arange(8)[:, None] // 4
        >>> row, each = average_precision_row('toy', scores, labels, definition='voc2010',
        ...                                   metric='mAP', feature='x', protocol='y')
        >>> row['numbers']['trained']['ci95'], each
        ([1.0, 1.0], [1.0])

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    mean, each = mean_average_precision(scores, labels == 1, labels == -1, definition=definition)
    rng = np.random.default_rng(seed)
    resampled: list[float] = []
    while len(resampled) < RESAMPLES:
        rows = rng.integers(0, len(labels), len(labels))
        if (labels[rows] == 1).any():
            resampled.append(_mean_ap(scores[rows], labels[rows], definition))
    interval = np.quantile(resampled, (0.025, 0.975))
    row = metric_row(probe, value=mean, ci95=interval.tolist(), count=len(labels), **words)
    return row, [None if np.isnan(value) else float(value) for value in each]


def _scores(head: LinearHead, features: Any) -> np.ndarray:
    return np.asarray(features, np.float32) @ np.asarray(head.kernel) + np.asarray(head.bias)


def _mean_ap(scores: np.ndarray, labels: np.ndarray, definition: str) -> float:
    labels = np.asarray(labels)
    return mean_average_precision(scores, labels == 1, labels == -1, definition=definition)[0]
