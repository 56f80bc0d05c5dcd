"""Instance retrieval on Oxford and Paris: average precision with junk, original and revisited."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def trapezoid_ap(ranks: np.ndarray, *, num_positive: int) -> float:
    """Computes the area below the precision-recall curve by trapezoids, as Oxford's `compute_ap`.

        AP = sum_j (p_before_j + p_at_j) / 2 / num_positive

    with the precision of the list up to each positive, without and with it; 1 before rank 0.

    Args:
        ranks: int [P], positions of the retrieved positives, from 0, in any order, after removing
            junk from the list.
        num_positive: of the query, at least P.

    Returns:
        In [0, 1].

    Raises:
        ValueError: ranks that are not [P], below 0 or repeated; `num_positive` below P or 0.

    Example:
        >>> round(trapezoid_ap(np.array([0, 2]), num_positive=2), 6)  # 1/2 (1 + (1/2 + 2/3) / 2)
        0.791667

    Reference:
        Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR
        2007, and the data set's `compute_ap.cpp`.
    """
    ranks = np.sort(np.asarray(ranks))
    if ranks.ndim != 1 or np.any(ranks < 0) or np.any(np.diff(ranks) == 0):
        raise ValueError(f"trapezoid_ap expects ranks [P] from 0, each once, found {ranks}.")
    if num_positive < max(len(ranks), 1):
        raise ValueError(
            f"trapezoid_ap expects at least {max(len(ranks), 1)} positives, found {num_positive}."
        )
    hits = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    return float(np.sum(before + (hits + 1) / (ranks + 1)) / 2 / num_positive)


def retrieval_map(
    similarity: np.ndarray,
    positives: Sequence[Sequence[int]],
    junk: Sequence[Sequence[int]] | None = None,
    *,
    num_positive: Sequence[int] | None = None,
) -> tuple[float, np.ndarray]:
    """Computes the mean average precision of queries on a database, as for Oxford5k and Paris6k.

    Junk is removed from the ranking. In the original protocol the positives are the images listed
    as good and as ok, and the query's own image stays in the database.

    Args:
        similarity: float [Q,M] of each query with each image of the database, high for similar;
            ties rank in the database's order.
        positives: for each query, the columns of its positives.
        junk: for each query, the columns of its junk, or None.
        num_positive: for each query, the number of positives in its ground truth, if the database
            lacks some: they count as never retrieved, as in `compute_ap`. None: those of
            `positives`.

    Returns:
        The mean over the queries that have positives, and float64 [Q], the average precision of
        each query, NaN for a query without positives.

    Raises:
        ValueError: wrong lengths, columns outside the database, an image both positive and junk,
            NaN similarities, or no query has a positive.

    Example:
        >>> similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
        >>> mean, _ = retrieval_map(similarity, [[0, 3]])
        >>> round(mean, 4)  # ranks 0 and 3: (1 + (1/3 + 1/2) / 2) / 2
        0.7083
        >>> retrieval_map(similarity, [[0, 3]], [[1, 2]])[0]  # ranks 0 and 1
        1.0

    Reference:
        as `trapezoid_ap`; the revisited benchmark's `compute_map` takes the same steps.
    """
    similarity = np.asarray(similarity)
    junk = [()] * len(positives) if junk is None else junk
    if similarity.ndim != 2 or not len(similarity) == len(positives) == len(junk):
        raise ValueError(
            "retrieval_map expects similarity [Q,M] and Q lists, found "
            f"{similarity.shape}, {len(positives)} and {len(junk)}."
        )
    if np.any(np.isnan(similarity)):
        raise ValueError("retrieval_map found similarities that are not a number.")
    each = []
    counts = [len({*good}) for good in positives] if num_positive is None else num_positive
    for row, right, ignored, count in zip(similarity, positives, junk, counts, strict=True):
        good, bad = {int(i) for i in right}, {int(i) for i in ignored}
        outside = [i for i in good | bad if not 0 <= i < len(row)]
        if outside or good & bad:
            raise ValueError(
                f"retrieval_map expects columns from 0 to {len(row) - 1}, positive or junk, found "
                f"{sorted(outside)} outside and {sorted(good & bad)} in both."
            )
        order = np.argsort(-row, kind="stable")
        order = order[~np.isin(order, list(bad))]
        ranks = np.flatnonzero(np.isin(order, list(good)))
        each.append(trapezoid_ap(ranks, num_positive=count) if count else np.nan)
    if np.all(np.isnan(each)):
        raise ValueError("retrieval_map expects a query with positives, found none.")
    return float(np.nanmean(each)), np.array(each)


def revisited_map(
    similarity: np.ndarray,
    easy: Sequence[Sequence[int]],
    hard: Sequence[Sequence[int]],
    junk: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Computes the mean average precision of revisited Oxford and Paris at three difficulties.

    `easy`: positives are easy images, hard and junk are left out; `medium`: positives are easy and
    hard, junk is left out; `hard`: positives are hard, easy and junk are left out. Queries without
    positives are ignored. The query images are not in the database.

    Args:
        similarity: float [Q,M], see `retrieval_map`.
        easy, hard, junk: for each query, columns of the database.

    Returns:
        'easy', 'medium' and 'hard', each in [0, 1]; without a difficulty at which no query has a
        positive.

    Raises:
        ValueError: as `retrieval_map`.

    Example:
        >>> similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
        >>> result = revisited_map(similarity, easy=[[1]], hard=[[3]], junk=[[0]])
        >>> {name: round(value, 4) for name, value in result.items()}
        {'easy': 1.0, 'medium': 0.7917, 'hard': 0.25}

    Reference:
        Radenovic et al., Revisiting Oxford and Paris, CVPR 2018,
        https://arxiv.org/abs/1803.11285, section 3.3.
    """
    roles = revisited_roles(easy, hard, junk)
    return {
        name: retrieval_map(similarity, positives, left_out)[0]
        for name, (positives, left_out) in roles.items()
        if any(len(p) for p in positives) or name == "medium"
    }


def revisited_roles(
    easy: Sequence[Sequence[int]], hard: Sequence[Sequence[int]], junk: Sequence[Sequence[int]]
) -> dict[str, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]:
    """Returns the positives and the left-out images at each difficulty, see `revisited_map`.

    Example:
        >>> revisited_roles(easy=[[1]], hard=[[3]], junk=[[0]])["medium"]
        ([[1, 3]], [[0]])
    """
    return {
        "easy": (easy, _joined(junk, hard)),
        "medium": (_joined(easy, hard), junk),
        "hard": (hard, _joined(junk, easy)),
    }


def query_image(
    image: np.ndarray, *, size: int, roi: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resizes an image so that the longer side is `size`, keeping the aspect ratio.

    The query's region is cropped after that, without resizing again.

    Args:
        image: uint8 [H,W,3].
        size: of the longer side; 1024 in DeepCluster's evaluation.
        roi: left, top, right and bottom of the query's region, in pixels of `image`, or None.

    Returns:
        uint8 [h,w,3].

    Raises:
        ValueError: not uint8 [H,W,3], or an empty region.

    Example:
        >>> image = np.zeros((60, 80, 3), np.uint8)
        >>> query_image(image, size=40).shape
        (30, 40, 3)
        >>> query_image(image, size=40, roi=(10.2, 20, 50, 60)).shape
        (20, 20, 3)

    Reference:
        DeepCluster's eval_retrieval.py; bilinear, as PIL resizes.
    """
    if np.ndim(image) != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"query_image expects uint8 [H,W,3], found {np.shape(image)}.")
    ratio = size / max(image.shape[:2])
    height, width = (max(int(np.round(side * ratio)), 1) for side in image.shape[:2])
    scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if roi is None:
        return scaled
    left, top, right, bottom = np.round(np.asarray(roi, np.float64) * ratio).astype(int)
    region = scaled[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not region.size:
        raise ValueError(f"query_image found nothing of {image.shape} inside the region {roi}.")
    return region


def _joined(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> list[list[int]]:
    if len(a) != len(b):
        raise ValueError(f"revisited_map expects lists of the same queries, found {len(a), len(b)}")
    return [[*x, *y] for x, y in zip(a, b, strict=True)]
