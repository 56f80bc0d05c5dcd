"""Logistic regression on frozen features: the regulariser is selected on validation, then refit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import augment
from jssl.data.subset import label_subset
from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.probes.logistic_lbfgs import REGULARIZERS, fit_logistic
from jssl.evaluate.probes.softmax_regression import LinearHead, linear_accuracy
from jssl.evaluate.table import number
from jssl.types import Array

HELD_OUT = 5  # one in HELD_OUT training examples of a class is held out to select the regulariser
RAW_SIDE = 32  # raw pixels are averaged to this side: the cost is cubic in their number


class Selection(NamedTuple):
    """The result of `select_logistic`.

    Attributes:
        head: the classifier, fitted on training and validation examples together.
        regularizer: the selected lambda.
        validation: float64 [R], score of each lambda, fitted on the training examples only.
        gradient: of the refit, see `LogisticPath`.
    """

    head: LinearHead
    regularizer: float
    validation: np.ndarray
    gradient: float


def select_logistic(
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    num_classes: int,
    regularizers: Sequence[float] = REGULARIZERS,
    reduction: str = "mean",
    score: Callable[[LinearHead, Any, Any], float] | None = None,
) -> Selection:
    """Selects lambda by its score on validation examples, and fits again on both.

    Test examples are not used. Of equally good values the largest is selected.

    Args:
        train, validation: features float [M,D] and labels each, as `fit_logistic` takes them.
        num_classes: K.
        regularizers: values of lambda to select from.
        reduction: 'sum' or 'mean', see `fit_logistic`.
        score: `(head, features, labels) -> float`, higher is better; top-1 if None.

    Returns:
        A `Selection`.

    Raises:
        UserError, ValueError: as `fit_logistic`.

    Example:
        >>> x, y = np.eye(3).repeat(4, axis=0), np.arange(3).repeat(4)
        >>> result = select_logistic((x, y), (x, y), num_classes=3, regularizers=(1e-3, 1e-2))
        >>> result.regularizer, result.validation
        (0.01, array([1., 1.]))

    Reference: SimCLR, https://arxiv.org/abs/2002.05709, appendix B.8; BYOL,
        https://arxiv.org/abs/2006.07733, appendix D.
    """
    path = fit_logistic(
        *train, num_classes=num_classes, regularizers=regularizers, reduction=reduction
    )
    score = score or (lambda head, x, y: linear_accuracy(head, x, y)["top1"])
    scores = np.array([score(path.head(i), *validation) for i in range(len(path.regularizers))])
    best = float(path.regularizers[scores == scores.max()].max())
    x, y = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    refit = fit_logistic(x, y, num_classes=num_classes, regularizers=(best,), reduction=reduction)
    return Selection(refit.head(0), best, scores, float(refit.gradients[0]))


def small_pixels(state: Any, images: Array) -> tuple[Array, Mapping[str, Array]]:
    """Returns raw pixels, as `raw_pixels`, of images averaged to a side of at most `RAW_SIDE`.

    Example:
        >>> small_pixels(None, np.zeros((2, 224, 224, 3), np.uint8))[0].shape
        (2, 3072)
    """
    x = augment.to_float(images)
    if max(x.shape[1:3]) > RAW_SIDE:
        x = jax.image.resize(x, (len(x), RAW_SIDE, RAW_SIDE, x.shape[-1]), "linear")  # antialiased
    return x.reshape(len(x), -1), {}


def logistic_row(
    sets: Mapping[str, tuple[Any, Any, Any, Any]],
    *,
    num_classes: int,
    name: str,
    feature: str = BACKBONE,
    regularizers: Sequence[float] = REGULARIZERS,
    reduction: str = "mean",
    seed: int = 0,
) -> dict[str, Any]:
    """Fits logistic regression on several feature sets of the same examples.

    A fifth of each class of the training examples is held out to select the regulariser; the test
    examples are used once, by the last classifier.

    Args:
        sets: kind -> (train features [M,D], train labels [M], test features [Q,D], test labels
            [Q]); kinds are usually 'trained', 'untrained' and 'raw pixels'.
        num_classes: K.
        name: of the data set.
        feature: name of the feature.
        regularizers: values of lambda to select from.
        reduction: 'sum' or 'mean', see `fit_logistic`.
        seed: of the held-out examples.

    Returns:
        A row as of `jssl.evaluate.probe_rows`; each number also has `regularizer`, its
        `validation_top1`, and `gradient` of the last fit.

    Raises:
        UserError, ValueError: as `fit_logistic`.

    Example:
        >>> x, y = np.eye(4).repeat(5, axis=0), np.arange(4).repeat(5)
        >>> row = logistic_row({'trained': (x, y, x, y)}, num_classes=4, name='mine',
        ...                    regularizers=(1e-3, 1e-2))
        >>> row['top1'], row['numbers']['trained']['regularizer']
        ({'trained': 1.0}, 0.01)
    """
    numbers: dict[str, Any] = {}
    grid = sorted(regularizers)
    for kind, (train_x, train_y, test_x, test_y) in sets.items():
        train_x, train_y = np.asarray(train_x), np.asarray(train_y)
        held_out = label_subset(train_y, fraction=1 / HELD_OUT, seed=seed)
        kept = np.setdiff1d(np.arange(len(train_y)), held_out)
        chosen_on = f"a held-out fifth of the train split (seed {seed})"
        if not len(kept):  # one example of each class, as in a dry run
            kept, chosen_on = held_out, "the train split itself, which has one example a class"
        selection = select_logistic(
            (train_x[kept], train_y[kept]),
            (train_x[held_out], train_y[held_out]),
            num_classes=num_classes,
            regularizers=regularizers,
            reduction=reduction,
        )
        protocol = (
            f"logistic regression on cached features as they are, no augmentation, L2 of one of "
            f"{len(grid)} lambda from {grid[0]:g} to {grid[-1]:g} beside the {reduction} of the "
            f"losses, chosen by top-1 on {chosen_on}, fitted again on all "
            f"{len(train_y):,} train, L-BFGS, {len(test_y):,} test examples of {name}"
        )
        text = "raw pixels" if kind == "raw pixels" else f"{kind} {feature}"
        scores = linear_accuracy(selection.head, test_x, test_y)
        details = protocol.replace("L2 of one", f"L2 lambda = {selection.regularizer:.3g}, one")
        numbers[kind] = number(scores, text, train_x.shape[1], details)
        numbers[kind] |= {
            "regularizer": selection.regularizer,
            "validation_top1": float(selection.validation.max()),
            "gradient": selection.gradient,
        }
    top1 = {kind: entry["top1"] for kind, entry in numbers.items()}
    return {"probe": "logistic", "protocol": protocol, "top1": top1, "numbers": numbers}
