"""95 % intervals of an accuracy and of a mean."""

from typing import Any

import numpy as np

from jssl.third_party import unchanged

with unchanged():
    from scipy.stats import binomtest, bootstrap


def binomial_interval(correct: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, for `count` independent examples.

    Tiles that overlap are not independent: for them it is too narrow. It says nothing of how
    training differs between seeds.

    Args:
        correct: how many were right.
        count: of how many.
        level: confidence.

    Returns:
        (low, high) in [0, 1].

    Example:
        >>> low, high = binomial_interval(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4902, 0.9433)
    """
    found = binomtest(correct, count).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def mean_interval(
    values: Any, *, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean over examples, queries or sequences.

    Args:
        values: float [M], one of each.
        level: confidence.
        seed: of the resamples.
        resamples: how many.

    Returns:
        (low, high); twice the value where there is no spread.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not values.std():
        return float(values.mean()), float(values.mean())
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=100,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
