"""95 % intervals of an accuracy, of a mean over examples, and of a mean over seeds.

scipy.stats takes most of a second to import, so it is imported where it is needed.
"""

from typing import Any

import numpy as np

from jssl.third_party import unchanged


def binomial_interval(correct: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Computes Wilson's interval of a proportion, for `count` independent examples.

    For overlapping tiles, which are not independent, it is too narrow. It does not include the
    variation between training seeds.

    Args:
        correct: number of correct examples.
        count: number of examples.
        level: confidence.

    Returns:
        (low, high) in [0, 1].

    Example:
        >>> low, high = binomial_interval(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4902, 0.9433)
    """
    with unchanged():
        from scipy.stats import binomtest

    interval = binomtest(correct, count).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(
    values: Any, *, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Computes the percentile bootstrap interval of a mean over examples, queries or sequences.

    Args:
        values: float [M].
        level: confidence.
        seed: of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        (low, high); both are the value if all values are equal.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not values.std():
        return float(values.mean()), float(values.mean())
    with unchanged():
        from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=100,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mean_per_class_interval(
    right: Any, labels: Any, *, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Computes the percentile bootstrap interval of the mean over classes of the accuracy.

    Examples are drawn within each class, which for counts is a binomial draw.

    Args:
        right: bool [M].
        labels: int [M].
        seed: of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        (low, high) in [0, 1].

    Example:
        >>> low, high = mean_per_class_interval([True, False] * 8, [0] * 8 + [1] * 8)
        >>> round(low, 2), round(high, 2)
        (0.25, 0.75)
    """
    right, labels = np.asarray(right), np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    shares = np.array([right[labels == k].mean() for k in classes])
    drawn = np.random.default_rng(seed).binomial(counts, shares, (resamples, len(counts)))
    low, high = np.percentile((drawn / counts[None, :]).mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def seed_interval(values: Any, *, level: float = 0.95) -> tuple[float, float]:
    """Computes Student's interval of a mean over seeds, of a normal distribution.

    Args:
        values: float [n], one of each seed, n of at least 2.
        level: confidence.

    Returns:
        (low, high), not clipped.

    Example:
        >>> low, high = seed_interval([0.50, 0.52, 0.54])
        >>> round(low, 4), round(high, 4)
        (0.4703, 0.5697)
    """
    with unchanged():
        from scipy.stats import t as student

    values = np.asarray(values, np.float64)
    half = student.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)
