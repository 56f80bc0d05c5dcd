"""Rows of the table for the published robustness sets, from the errors of a classifier."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.evaluate.table import metric_row
from jssl.metrics.intervals import binomial_interval, mean_interval
from jssl.metrics.mce import ALEXNET_C, ALEXNET_CLEAN, ALEXNET_P, mce, mfr, relative_mce

Row = dict[str, Any]
PROBE = "own classifier"
FARTHEST = 15.0  # 5 + 4 + 3 + 2 + 1: the top-5 distance when all five classes leave the top 5


def mce_rows(
    wrong: Mapping[str, np.ndarray],
    *,
    clean: np.ndarray | None,
    protocol: str,
    clean_protocol: str = "",
    seed: int = 0,
) -> list[Row]:
    """Computes mCE and, if the clean images are given, relative mCE and the clean error.

    The mCE is a mean over images: each contributes its errors over AlexNet's error rate of each
    corruption. Its interval is a bootstrap over images, with all 75 versions of an image together.
    The interval of the relative mCE (normal) treats clean and corrupted images as independent,
    which makes it too wide, not too narrow.

    Args:
        wrong: name of the corruption -> bool [5,M], severity by image, the same M images in the
            same order; all 15.
        clean: bool [N], the same for the clean validation set; None leaves two rows out.
        protocol: text of the preprocessing.
        clean_protocol: the same for the clean images.
        seed: of the bootstrap.

    Returns:
        Rows as of `jssl.evaluate.metric_row`; the first also has `errors` {corruption: five
        errors in [0, 1]}.

    Raises:
        UserError, ValueError: as `mce`; or wrong shapes.

    Example:
        >>> none = {name: np.zeros((5, 4), bool) for name in ALEXNET_C}
        >>> rows = mce_rows(none, clean=np.zeros(2, bool), protocol='toy')
        >>> [(row['metric'], row['numbers']['trained']['value']) for row in rows]
        [('mCE', 0.0), ('top-1 error', 0.0), ('relative mCE', 0.0), ('top-1 error', 0.0)]

    Reference: Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261.
    """
    shapes = {np.shape(flags) for flags in wrong.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[0] != 5:
        raise ValueError(f"mce_rows expects bool [5,M] per corruption, found {shapes or shape}.")
    count = shape[1]
    errors = {name: np.mean(flags, axis=1) for name, flags in wrong.items()}
    value = mce(errors) / 100
    by_image = {name: np.mean(wrong[name], axis=0) for name in ALEXNET_C}
    alexnet = {name: float(np.mean(row)) for name, row in ALEXNET_C.items()}
    shares = np.mean([by_image[name] / alexnet[name] for name in ALEXNET_C], axis=0)
    plain = np.mean(list(by_image.values()), axis=0)
    common = {"feature": "trained logits", "count": count}
    rows = [
        metric_row(
            PROBE,
            metric="mCE",
            value=value,
            ci95=mean_interval(shares, seed=seed),
            protocol=f"{protocol}, error over AlexNet's, mean of 15 corruptions",
            **common,
        ),
        metric_row(
            PROBE,
            metric="top-1 error",
            value=plain.mean(),
            ci95=mean_interval(plain, seed=seed),
            protocol=f"{protocol}, plain mean of 15 corruptions",
            **common,
        ),
    ]
    rows[0]["errors"] = {name: row.tolist() for name, row in errors.items()}
    if clean is None:
        return rows
    e, n = float(np.mean(clean)), len(clean)
    over = {name: 1 / (alexnet[name] - ALEXNET_CLEAN) for name in ALEXNET_C}
    rises = np.mean([by_image[name] * over[name] for name in ALEXNET_C], axis=0)
    share = np.mean(list(over.values()))
    value = relative_mce(errors, clean_error=e) / 100
    half = 1.96 * np.sqrt(np.var(rises) / count + share**2 * e * (1 - e) / n)
    rows.append(
        metric_row(
            PROBE,
            metric="relative mCE",
            value=value,
            ci95=(value - half, value + half),
            protocol=f"{protocol}, rise above the clean error over AlexNet's rise of "
            f"{100 * ALEXNET_CLEAN:.2f} %; clean: {clean_protocol}",
            **common,
        )
    )
    rows.append(
        metric_row(
            PROBE,
            metric="top-1 error",
            value=e,
            ci95=binomial_interval(int(np.sum(clean)), n),
            protocol=clean_protocol,
            feature="trained logits",
            count=n,
        )
    )
    return rows


def error_row(wrong: Mapping[str, np.ndarray], *, protocol: str, seed: int = 0) -> Row:
    """Computes the mean error over corruptions and severities, as reported for CIFAR-10-C.

    Args:
        wrong: name of the corruption -> bool [S,M], severity by image, the same M images in the
            same order.
        protocol: text of the preprocessing.
        seed: of the bootstrap over images.

    Returns:
        A row as of `jssl.evaluate.metric_row`, with `errors` {corruption: S errors}.

    Example:
        >>> row = error_row({'fog': np.array([[0, 1], [1, 1]])}, protocol='toy')
        >>> row['numbers']['trained']['value'], row['errors']
        (0.75, {'fog': [0.5, 1.0]})
    """
    by_image = np.mean([np.mean(flags, axis=0) for flags in wrong.values()], axis=0)
    row = metric_row(
        PROBE,
        metric="top-1 error",
        value=by_image.mean(),
        ci95=mean_interval(by_image, seed=seed),
        count=len(by_image),
        feature="trained logits",
        protocol=f"{protocol}, plain mean of {len(wrong)} corruptions",
    )
    return {**row, "errors": {k: np.mean(v, axis=1).tolist() for k, v in wrong.items()}}


def mfr_rows(
    flips: Mapping[str, np.ndarray],
    distances: Mapping[str, np.ndarray],
    *,
    protocol: str,
    seed: int = 0,
) -> list[Row]:
    """Computes mFR, and the mean top-5 distance divided by its maximum, 15.

    No published code has AlexNet's top-5 distances, so the distance is not relative to AlexNet's.

    Args:
        flips: name of the perturbation -> float [S], see `sequence_flips`; the same S images in
            the same order; all 10.
        distances: the same, see `sequence_distances`.
        protocol: text of the preprocessing.
        seed: of the bootstrap over images, with all ten sequences of an image together.

    Returns:
        Two rows as of `jssl.evaluate.metric_row`, with `flip_rates` and `top5_distances`,
        {perturbation: mean}.

    Raises:
        UserError, ValueError: as `mfr`.

    Example:
        >>> half = {name: np.full(3, rate / 2) for name, rate in ALEXNET_P.items()}
        >>> rows = mfr_rows(half, {name: np.full(3, 1.5) for name in ALEXNET_P}, protocol='toy')
        >>> [(row['metric'], round(row['numbers']['trained']['value'], 3)) for row in rows]
        [('mFR', 0.5), ('top-5 distance of 15', 0.1)]

    Reference: Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261.
    """
    rates = {name: float(np.mean(values)) for name, values in flips.items()}
    shares = np.mean([flips[name] / ALEXNET_P[name] for name in ALEXNET_P], axis=0)
    moved = np.mean([distances[name] / FARTHEST for name in ALEXNET_P], axis=0)
    common: dict[str, Any] = {"feature": "trained logits", "count": len(shares)}
    rows = [
        metric_row(
            PROBE,
            metric="mFR",
            value=mfr(rates) / 100,
            ci95=mean_interval(shares, seed=seed),
            protocol=f"{protocol}, flips over AlexNet's, mean of 10 perturbations",
            **common,
        ),
        metric_row(
            PROBE,
            metric="top-5 distance of 15",
            value=moved.mean(),
            ci95=mean_interval(moved, seed=seed),
            protocol=f"{protocol}, not over AlexNet's, mean of 10 perturbations",
            **common,
        ),
    ]
    rows[0]["flip_rates"] = rates
    rows[1]["top5_distances"] = {k: float(np.mean(v)) for k, v in distances.items()}
    return rows
