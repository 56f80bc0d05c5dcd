"""Non-maximum suppression with fixed shapes."""

import jax
import jax.numpy as jnp

from jssl.dense.boxes import box_iou
from jssl.types import Array


def nms(boxes: Array, scores: Array, *, iou: float, count: int) -> tuple[Array, Array]:
    """Selects boxes by score, without those that overlap a selected one by more than a threshold.

    Greedy and exact, in `count` steps of O(N) work and memory. A box at exactly the threshold is
    kept. Of equal scores the first is selected.

    Args:
        boxes: [N,4] float.
        scores: [N] float; -inf for a box that is not selected in any case.
        iou: the threshold, in [0, 1].
        count: number of boxes to select.

    Returns:
        indices: int32 [count], in the order of falling scores.
        selected: bool [count]; False where no box was left, whose index is 0.

    Example:
        >>> boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60.0]])
        >>> indices, selected = nms(boxes, jnp.array([0.9, 0.8, 0.7, 0.6]), iou=0.5, count=4)
        >>> print(indices, selected)
        [0 2 3 0] [ True  True  True False]

    Reference: torchvision.ops.nms, whose indices these are.
    """
    boxes = boxes.astype(jnp.float32)

    def step(live: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(live).astype(jnp.int32)
        selected = live[best] > -jnp.inf
        near = box_iou(boxes[best][None], boxes)[0] > iou
        live = jnp.where(near, -jnp.inf, live).at[best].set(-jnp.inf)
        return live, (jnp.where(selected, best, 0), selected)

    _, (indices, selected) = jax.lax.scan(step, scores.astype(jnp.float32), length=count)
    return indices, selected


def class_nms(
    boxes: Array, scores: Array, *, iou: float, min_score: float, count: int
) -> tuple[Array, Array, Array, Array]:
    """Selects the detections of a picture: suppression within each class, then the best of all.

    Args:
        boxes: [N,K,4] float, a box for each class.
        scores: [N,K] float.
        iou: the threshold of a class.
        min_score: detections must score more.
        count: number of detections.

    Returns:
        boxes: float32 [count,4].
        scores: float32 [count], falling; -inf where there are fewer detections.
        classes: int32 [count].
        rows: int32 [count], in [0, N).

    Example:
        >>> boxes = jnp.tile(jnp.array([[[0.0, 0, 10, 10]], [[0, 0, 10, 9]]]), (1, 2, 1))
        >>> scores = jnp.array([[0.9, 0.1], [0.8, 0.3]])
        >>> _, scores, classes, rows = class_nms(boxes, scores, iou=0.5, min_score=0.05, count=3)
        >>> print(scores, classes[:2], rows[:2])
        [ 0.9  0.3 -inf] [0 1] [0 1]
    """
    classes = scores.shape[1]
    live = jnp.where(scores > min_score, scores.astype(jnp.float32), -jnp.inf)

    def one(boxes: Array, scores: Array) -> tuple[Array, Array]:
        # No more than `count` survive in all, so no class needs more.
        indices, selected = nms(boxes, scores, iou=iou, count=min(count, len(scores)))
        return indices, jnp.where(selected, scores[indices], -jnp.inf)

    rows, values = jax.vmap(one, in_axes=1)(boxes, live)  # [K,count]
    values, rows = values.ravel(), rows.ravel()
    numbers = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), len(values) // classes)
    short = max(0, count - len(values))
    values = jnp.concatenate([values, jnp.full(short, -jnp.inf)])
    rows, numbers = (jnp.concatenate([x, jnp.zeros(short, jnp.int32)]) for x in (rows, numbers))
    values, order = jax.lax.top_k(values, count)
    rows, numbers = rows[order], numbers[order]
    return boxes[rows, numbers].astype(jnp.float32), values, numbers, rows
