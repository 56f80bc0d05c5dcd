"""The transfer protocol on frozen features: the regulariser is chosen on validation, then refit."""

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

HELD_OUT = 5  # one in so many training examples of a class chooses the regulariser
RAW_SIDE = 32  # to which raw pixels are averaged: the fit is cubic in their number


class Selection(NamedTuple):
    """What `select_logistic` found.

    Attributes:
        head: the classifier, fitted on training and validation examples together.
        regularizer: lambda that was chosen.
        validation: float64 [R], score of each lambda, fitted on the training examples alone.
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
    """Chooses lambda by its score on validation examples, and fits again on both.

    It is given no test example. Of equally good values the largest is taken.

    Args:
        train, validation: features float [M,D] and labels each, as `fit_logistic` takes them.
        num_classes: K.
        regularizers: lambda, to choose from.
        reduction: 'sum' or 'mean', see `fit_logistic`.
        score: `(head, features, labels) -> float`, the higher the better; top-1 when None.

    Returns:
        A `Selection`.

    Raises:
        UserError, ValueError: as `fit_logistic`.

    Example:
        >>> x, y = np.eye(3).repeat(4, axis=0), np.arange(3).repeat(4)
        >>> found = select_logistic((x, y), (x, y), num_classes=3, regularizers=(1e-3, 1e-2))
        >>> found.regularizer, found.validation
        (0.01, array([1., 1.]))

    Reference: SimCLR, https://arxiv.org/abs/2002.05709, appendix B.8; BYOL,
        https://arxiv.org/abs/2006.07733, appendix D.
    """
    path = fit_logistic(
        *train, num_classes=num_classes, regularizers=regularizers, reduction=reduction
    )
    score = score or (lambda head, x, y: linear_accuracy(head, x, y)["top1"])
    found = np.array([score(path.head(i), *validation) for i in range(len(path.regularizers))])
    best = float(path.regularizers[found == found.max()].max())
    x, y = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    refit = fit_logistic(x, y, num_classes=num_classes, regularizers=(best,), reduction=reduction)
    return Selection(refit.head(0), best, found, float(refit.gradients[0]))


def small_pixels(state: Any, images: Array) -> tuple[Array, Mapping[str, Array]]:
    """Raw pixels, as `raw_pixels`, of a picture averaged to at most `RAW_SIDE` a side.

    Example:
        >>> small_pixels(None, np.zeros((2, 224, 224, 3), np.uint8))[0].shape
        (2, 3072)
    """
    x = augment.to_float(images)
    if max(x.shape[1:3]) > RAW_SIDE:
        x = jax.image.resize(x, (len(x), RAW_SIDE, RAW_SIDE, 3), "linear")  # antialiased
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
    """Logistic regression on several feature sets of the same examples.

    A fifth of every class of the training examples is held out to choose the regulariser; the test
    examples are looked at once, by the classifier that was fitted last.

    Args:
        sets: kind -> (train features [M,D], train labels [M], test features [Q,D], test labels
            [Q]); kinds are most often 'trained', 'untrained' and 'raw pixels'.
        num_classes: K.
        name: of the data set.
        feature: what was taken of the networks.
        regularizers: lambda, to choose from.
        reduction: 'sum' or 'mean', see `fit_logistic`.
        seed: of the examples that are held out.

    Returns:
        A row of the form of `jssl.evaluate.probe_rows`; each number also has `regularizer`,
        `validation_top1` of that one, and `gradient` of the last fit.

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
        held = label_subset(train_y, fraction=1 / HELD_OUT, seed=seed)
        kept = np.setdiff1d(np.arange(len(train_y)), held)
        found = select_logistic(
            (train_x[kept], train_y[kept]),
            (train_x[held], train_y[held]),
            num_classes=num_classes,
            regularizers=regularizers,
            reduction=reduction,
        )
        protocol = (
            f"logistic regression on cached features as they are, no augmentation, L2 of one of "
            f"{len(grid)} lambda from {grid[0]:g} to {grid[-1]:g} beside the {reduction} of the "
            f"losses, chosen by top-1 on a held-out fifth of the train split (seed {seed}), fitted "
            f"again on all {len(train_y):,} train, L-BFGS, {len(test_y):,} test examples of {name}"
        )
        words = "raw pixels" if kind == "raw pixels" else f"{kind} {feature}"
        scores = linear_accuracy(found.head, test_x, test_y)
        chosen = protocol.replace("L2 of one", f"L2 lambda = {found.regularizer:.3g}, one")
        numbers[kind] = number(scores, words, train_x.shape[1], chosen)
        numbers[kind] |= {
            "regularizer": found.regularizer,
            "validation_top1": float(found.validation.max()),
            "gradient": found.gradient,
        }
    top1 = {kind: found["top1"] for kind, found in numbers.items()}
    return {"probe": "logistic", "protocol": protocol, "top1": top1, "numbers": numbers}
