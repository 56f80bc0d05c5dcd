"""The weighted k-nearest-neighbour classifier on frozen features, also used by the monitor.

For a query q with neighbours N_k(q), the k bank entries of largest cosine similarity s_i,

    score_c(q) = sum_{i in N_k(q)} 1[y_i = c] exp(s_i / T),    prediction = argmax_c score_c(q).

Wu et al., CVPR 2018 (instance discrimination), https://arxiv.org/abs/1805.01978, section 3.4; used
with k=200, T=0.1 by MoCo's CIFAR demo, SimSiam and lightly.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.errors import UserError
from jssl.metrics._arrays import check_examples, unit
from jssl.types import Array

BLOCK_SIZE = 256  # queries at a time: one matmul keeps all cores busy
BANK_BLOCK = 32768  # rows at a time: unit vectors and similarities of the whole are never held


def knn_predict(
    features: Array,
    labels: Array,
    queries: Array,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.1,
    block_size: int = BLOCK_SIZE,
) -> tuple[Array, Array]:
    """Classifies queries by the weighted votes of their k nearest neighbours.

    Compiled once for each combination of shapes, `num_classes`, `k` and `block_size`. The bank
    keeps its dtype and is read in blocks; in memory beside it are one block in float32 and the
    neighbours [Q,k]. Of equally near neighbours at the k-th place the first in the bank votes; of
    classes with equal votes the lowest number wins.

    Args:
        features: float16, bfloat16 or float32 [M,D], the bank; of any norm, they are normalised
            here, in float32.
        labels: int [M] in [0, num_classes).
        queries: float [Q,D].
        num_classes: K.
        k: number of neighbours, 1 <= k <= M.
        temperature: T > 0; votes weigh exp(cosine similarity / T).
        block_size: queries per block.

    Returns:
        pred: int32 [Q].
        scores: float32 [Q,K], each row's votes as shares of their sum.

    Raises:
        UserError: k larger than the bank, temperature not above 0, labels outside the classes,
            non-finite features.
        ValueError: wrong shapes.

    Example:
        >>> bank, labels = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), jnp.array([0, 1, 1])
        >>> pred, scores = knn_predict(bank, labels, jnp.array([[3.0, 4.0]]), num_classes=2, k=2)
        >>> print(pred, scores)  # the two of class 1, each at cosine 0.8, are nearest
        [1] [[0. 1.]]

    Reference: equation above. The official code exponentiates s / T; this subtracts the largest s
        of the row first, so that no temperature overflows; shares and ranks are equal.
    """
    check_examples("kNN", features, labels, num_classes)
    (M, D), shape = np.shape(features), np.shape(queries)
    if len(shape) != 2 or shape[1] != D:
        raise ValueError(f"kNN expects queries [Q,D] with D={D} of the bank, found {shape}.")
    if not 1 <= k <= M:
        raise UserError(
            f"kNN with k={k} needs a bank of at least {max(k, 1)} labelled examples and k of at "
            f"least 1, found {M} examples. Type --k=N (in training --config.monitor.knn_k=N) with "
            f"N from 1 to {M}."
        )
    if not temperature > 0:
        raise UserError(f"kNN expects a temperature above 0, found {temperature}. Type 0.1.")
    return _predict(
        jnp.asarray(features),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(queries, jnp.float32),
        temperature,
        num_classes=num_classes,
        k=k,
        block_size=max(1, min(block_size, shape[0])),
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "k", "block_size"))
def _predict(features, labels, queries, temperature, *, num_classes, k, block_size):
    (M, D), Q, blocks = features.shape, len(queries), -(-len(queries) // block_size)
    queries = unit(jnp.pad(queries, ((0, blocks * block_size - Q), (0, 0))))
    queries, rows = queries.reshape(blocks, block_size, D), min(M, BANK_BLOCK)

    def of_bank_block(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        # The last block begins earlier, to be as large; rows of the block before it do not count.
        first = jnp.minimum(start, M - rows)
        bank = unit(jax.lax.dynamic_slice_in_dim(features, first, rows))
        new = first + jnp.arange(rows) >= start

        def of_query_block(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            block, near, where = part
            # Full float32, also on accelerators that round in matmul: the ranking is the result.
            similarity = jnp.matmul(block, bank.T, precision=jax.lax.Precision.HIGHEST)
            similarity = jnp.where(new, similarity, -jnp.inf)
            here, place = jax.lax.top_k(similarity, min(k, rows))
            # Earlier blocks first: of equals the lower index comes first.
            near = jnp.concatenate([near, here], axis=1)
            where = jnp.concatenate([where, first + place], axis=1)
            near, place = jax.lax.top_k(near, k)
            return near, jnp.take_along_axis(where, place, axis=1)

        return jax.lax.map(of_query_block, (queries, *best)), None

    shape = (blocks, block_size, k)
    none = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    (near, where), _ = jax.lax.scan(of_bank_block, none, jnp.arange(0, M, rows))
    near, where = near.reshape(-1, k)[:Q], where.reshape(-1, k)[:Q]
    # Not near[:, :1]: XLA would fold that slice into top_k's and sort whole rows, 30x slower.
    weights = jnp.exp((near - jnp.max(near, axis=1, keepdims=True)) / temperature)
    votes = jnp.zeros((Q, num_classes)).at[jnp.arange(Q)[:, None], labels[where]].add(weights)
    scores = votes / jnp.sum(votes, axis=1, keepdims=True)
    return jnp.argmax(scores, axis=1).astype(jnp.int32), scores


def knn_accuracy(
    features: Array,
    labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.1,
) -> dict[str, float | int]:
    """Computes the accuracy of kNN on labelled queries; see `knn_predict`.

    Args:
        features: float [M,D], the bank, of the train split.
        labels: int [M].
        queries: float [Q,D], of the test split.
        query_labels: int [Q].
        num_classes: K.
        k: number of neighbours.
        temperature: T of the weights exp(s / T).

    Returns:
        `top1` in [0, 1], `correct` and `count` as integers, and `top5` if K >= 5: whether the
        label is among the five classes of most votes, ties ranked by class number. A class
        without votes is never correct, even if fewer than five have votes.

    Raises:
        UserError, ValueError: as `knn_predict`, for queries too.

    Example:
        >>> bank, labels = np.eye(3), np.arange(3)
        >>> knn_accuracy(bank, labels, 5 * np.eye(3), np.array([0, 1, 1]), num_classes=3, k=1)
        {'top1': 0.6666666666666666, 'correct': 2, 'count': 3}
    """
    check_examples("kNN", queries, query_labels, num_classes)
    _, scores = knn_predict(
        features, labels, queries, num_classes=num_classes, k=k, temperature=temperature
    )
    return ranked_accuracy(scores, query_labels)


def ranked_accuracy(scores: Any, labels: Any) -> dict[str, float | int]:
    """Computes top-1, and top-5 if K >= 5, of non-negative scores [Q,K]; 0 is never correct.

    Example:
        >>> ranked_accuracy(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([1, 1]))
        {'top1': 0.5, 'correct': 1, 'count': 2}
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    rank = np.where(own[:, 0] > 0, rank, scores.shape[1])
    correct, count = int(np.sum(rank == 0)), len(labels)
    result: dict[str, float | int] = {"top1": correct / count, "correct": correct, "count": count}
    if scores.shape[1] >= 5:
        result["top5"] = float(np.mean(rank < 5))
    return result
