"""Matching of anchors or proposals to the objects of a picture, and sampling for the losses.

Shapes are fixed: objects are padded to one number, with a mask, and samples are rows with a weight.
"""

import jax
import jax.numpy as jnp

from jssl.types import Array

NEGATIVE, IGNORED = -1, -2


def match(iou: Array, valid: Array, *, low: float, high: float, keep_best: bool = False) -> Array:
    """Matches each box to the object that it overlaps most.

    A box is positive at an overlap of `high` or more, negative below `low`, and ignored between.
    With `keep_best` every box that has an object's largest overlap is positive too; its object
    stays the one that IT overlaps most.

    Args:
        iou: [M,N] float, objects by boxes.
        valid: bool [M], which objects are not padding.
        low, high: thresholds, low <= high.
        keep_best: for a region proposal network.

    Returns:
        int32 [N]: the number of the object, `NEGATIVE` or `IGNORED`. All are negative in a picture
        without objects.

    Example:
        >>> iou = jnp.array([[0.8, 0.2, 0.5, 0.65], [0.1, 0.69, 0.5, 0.65]])
        >>> print(match(iou, jnp.array([True, True]), low=0.3, high=0.7, keep_best=True))
        [ 0  1 -2 -2]
        >>> print(match(iou, jnp.array([True, True]), low=0.3, high=0.7))
        [ 0 -2 -2 -2]

    Reference: Ren et al., NeurIPS 2015, https://arxiv.org/abs/1506.01497, section 3.1.2;
        https://github.com/facebookresearch/detectron2, modeling/matcher.py.
    """
    iou = jnp.where(valid[:, None], iou.astype(jnp.float32), -1.0)
    best, number = jnp.max(iou, axis=0), jnp.argmax(iou, axis=0).astype(jnp.int32)
    result = jnp.where(best >= high, number, jnp.where(best < low, NEGATIVE, IGNORED))
    if keep_best:
        largest = jnp.max(iou, axis=1, keepdims=True)
        # An object that no box overlaps has no best one.
        is_best = (iou == largest + 0 * iou) & (largest > 0) & valid[:, None]
        result = jnp.where(jnp.any(is_best, axis=0), number, result)
    return result.astype(jnp.int32)


def sample(key: Array, matches: Array, *, count: int, positives: int) -> tuple[Array, Array, Array]:
    """Samples boxes for a loss: at most some positives, and negatives for the rest.

    Without replacement and uniformly, as a random permutation that is cut off.

    Args:
        key: typed PRNG key [].
        matches: int32 [N], of `match`; N >= count.
        count: boxes in the sample.
        positives: largest number of positives in it.

    Returns:
        indices: int32 [positives + count], rows of the boxes.
        is_positive: bool [positives + count].
        weight: float32 [positives + count], 1 for a box of the sample, 0 for one that fills up:
            there may be fewer boxes of a kind than asked for.

    Example:
        >>> matches = jnp.array([0, -1, -1, -2, 1, -1])
        >>> _, is_positive, weight = sample(jax.random.key(0), matches, count=4, positives=1)
        >>> print((weight * is_positive).sum(), (weight * ~is_positive).sum())
        1.0 3.0

    Reference: https://github.com/facebookresearch/detectron2, modeling/sampling.py.
    """
    u = jax.random.uniform(key, matches.shape)
    rows, weights = [], []
    number = jnp.minimum(jnp.sum(matches >= 0), positives)
    for chosen, size, wanted in (
        (matches >= 0, positives, number),
        (matches == NEGATIVE, count, count - number),
    ):
        # u is in [0, 1): the rows of the other kinds come last.
        value, row = jax.lax.top_k(jnp.where(chosen, u, -1.0), min(size, len(matches)))
        rows.append(row)
        weights.append((value >= 0) & (jnp.arange(len(row)) < wanted))
    is_positive = jnp.arange(len(rows[0]) + len(rows[1])) < len(rows[0])
    weight = jnp.concatenate(weights).astype(jnp.float32)
    return jnp.concatenate(rows).astype(jnp.int32), is_positive, weight
