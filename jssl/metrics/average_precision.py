"""Average precision as in PASCAL VOC: 11 points (2007) and area (2010), and mean AP."""

import numpy as np

DEFINITIONS = ("voc2007", "voc2010", "step")


def average_precision(
    scores: np.ndarray,
    positive: np.ndarray,
    ignore: np.ndarray | None = None,
    *,
    definition: str,
    num_positive: int | None = None,
) -> float:
    """Computes the average precision of one ranking.

    With precision p_k and recall r_k after the k best examples:

        voc2007:  1/11 sum_{t = 0, .1, ..., 1} max_{k: r_k >= t} p_k, and 0 where no r_k >= t
        voc2010:  sum_k (r_k - r_{k-1}) max_{j >= k} p_j, the area below the envelope
        step:     sum_k (r_k - r_{k-1}) p_k, scikit-learn's `average_precision_score`

    The eleven t are bit-equal to those of py-faster-rcnn: .3, .6 and .7 are a rounding error
    larger, so that a recall of exactly 3/5 does not reach t = .6.

    VOC's definitions rank examples of equal score in the given order, so shuffle or break ties
    before; `step` treats them together.

    Args:
        scores: float [M], high for positive.
        positive: bool [M].
        ignore: bool [M], examples that are left out, such as the difficult ones of VOC, or None.
        definition: voc2007, voc2010 or step.
        num_positive: denominator of recall, if some positives are not in the list, as in
            detection; None for the number in the list.

    Returns:
        In [0, 1]; NaN if there are no positives.

    Raises:
        ValueError: wrong shapes, an unknown definition, NaN scores, or fewer `num_positive` than
            in the list.

    Example:
        >>> hits = np.array([1, 0, 1, 1, 0, 0, 1], bool)
        >>> falling = -np.arange(7.0)
        >>> for definition in DEFINITIONS:
        ...     options = {"definition": definition, "num_positive": 5}
        ...     print(definition, round(average_precision(falling, hits, **options), 5))
        voc2007 0.63312
        voc2010 0.61429
        step 0.59762

    Reference:
        Everingham et al., The PASCAL Visual Object Classes challenge, IJCV 2010, section 4.2, and
        the development kits of 2007 and 2010 (VOCevalcls.m); py-faster-rcnn's `voc_eval.py`.
        DeepCluster's result on VOC07 is `step` with 1e-5 subtracted from the scores of positives,
        which ranks them last among equals.
    """
    if definition not in DEFINITIONS:
        raise ValueError(
            f"average_precision expects a definition of {', '.join(DEFINITIONS)}, "
            f"found {definition!r}."
        )
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive)
    shapes = [scores.shape, positive.shape] + ([np.shape(ignore)] if ignore is not None else [])
    if scores.ndim != 1 or len({*shapes}) > 1:
        raise ValueError(f"average_precision expects arrays [M] of one M, found {shapes}.")
    if not np.all(np.isin(positive, (0, 1))):
        raise ValueError("average_precision expects positives of 0 and 1: pass ignore separately.")
    positive = positive.astype(bool)
    if ignore is not None:
        keep = ~np.asarray(ignore, bool)
        scores, positive = scores[keep], positive[keep]
    if np.any(np.isnan(scores)):
        raise ValueError(f"average_precision found {np.sum(np.isnan(scores))} scores not a number.")
    total = int(np.sum(positive)) if num_positive is None else num_positive
    if total < np.sum(positive):
        raise ValueError(
            f"average_precision found {np.sum(positive)} positives, expected {total} at the most."
        )
    if not total:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    rank = np.arange(1, len(order) + 1)
    if definition == "step" and len(order):
        last = np.append(np.diff(scores[order]) != 0, True)  # the last example of each score
        hits, rank = hits[last], rank[last]
    recall, precision = hits / total, hits / rank
    if definition == "voc2007":
        reached = recall[None, :] >= np.arange(0.0, 1.1, 0.1)[:, None]
        best = np.max(np.where(reached, precision[None, :], 0.0), axis=1, initial=0.0)
        return float(np.mean(best))
    if definition == "voc2010":
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(
    scores: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray | None = None,
    *,
    definition: str,
) -> tuple[float, np.ndarray]:
    """Computes the mean over classes of the average precision, for multi-label images.

    Args:
        scores: float [M,K].
        labels: [M,K], 1 if the image shows the class.
        ignore: bool [M,K], True if the image is left out of the class's ranking: in VOC, if all
            its objects of the class are difficult. None for no image.
        definition: as in `average_precision`.

    Returns:
        The mean over the classes that have positives, and float64 [K], the average precision of
        each class, NaN for a class without positives.

    Raises:
        ValueError: as `average_precision`, or no class has a positive.

    Example:
        >>> scores = np.array([[3.0, 0.1], [2.0, 0.3], [1.0, 0.2]])
        >>> labels = np.array([[1, 0], [0, 0], [1, 1]])
        >>> mean, each = mean_average_precision(scores, labels, definition="voc2010")
        >>> print(round(mean, 4), each.round(4))
        0.6667 [0.8333 0.5   ]

    Reference:
        as `average_precision`.
    """
    shapes = [np.shape(scores), np.shape(labels)]
    shapes += [np.shape(ignore)] if ignore is not None else []
    if len(shapes[0]) != 2 or len({*shapes}) > 1:
        raise ValueError(f"mean_average_precision expects arrays [M,K], found {shapes}.")
    scores, labels = np.asarray(scores), np.asarray(labels)
    each = np.array(
        [
            average_precision(
                scores[:, k],
                labels[:, k],
                None if ignore is None else np.asarray(ignore)[:, k],
                definition=definition,
            )
            for k in range(shapes[0][1])
        ]
    )
    if np.all(np.isnan(each)):
        raise ValueError("mean_average_precision expects a class with positives, found none.")
    return float(np.nanmean(each)), each
