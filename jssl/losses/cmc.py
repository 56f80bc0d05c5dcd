"""Losses of contrastive multiview coding (CMC), over pairs of views in both directions.

Scores are [P,2,B,K+1]: for each pair (i, j) of views and each direction (anchor i, then j) the
similarities of an example's anchor with its positive, in column 0, and with K negatives of the
other view. `multiview_scores` takes candidates from a memory bank, `in_batch_scores` the other
examples of the batch. `nce` and `nce_softmax` convert them to losses [P,2,B]; CMC's loss is the sum
over pairs and directions: core view sum_{j>1} L(V_1,V_j), full graph sum_{i<j} L(V_i,V_j).
"""

import math

import jax
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.losses._checks import not_positive
from jssl.parallel.collectives import all_gather, global_index, pmean
from jssl.types import Array

GRAPHS = ("core", "full")
EPS = 1e-7


def view_pairs(views: int, *, graph: str) -> tuple[tuple[int, int], ...]:
    """Returns the contrasted pairs (i, j), i < j, of V views.

    Args:
        views: V, at least 2.
        graph: 'core': the first view with each other view; 'full': all pairs.

    Returns:
        V - 1 or V (V - 1) / 2 pairs.

    Raises:
        ValueError: fewer than two views.
        UserError: an unknown graph.

    Example:
        >>> view_pairs(3, graph='core'), view_pairs(3, graph='full')
        (((0, 1), (0, 2)), ((0, 1), (0, 2), (1, 2)))

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, equations 7 and 8.
    """
    if views < 2:
        raise ValueError(f"Views are contrasted in pairs: expected two or more, found {views}.")
    if graph not in GRAPHS:
        raise UserError(f"Unknown graph of views '{graph}': {nearest(graph, GRAPHS)}.")
    anchors = range(1 if graph == "core" else views)
    return tuple((i, j) for i in anchors for j in range(i + 1, views))


def multiview_scores(features: Array, candidates: Array, *, graph: str) -> Array:
    """Computes the similarities of anchors with candidates from the other view of each pair.

    The anchor f_i is compared with rows of view j, never with rows of its own view.

    Args:
        features: float [V,B,D], unit vectors.
        candidates: float [V,B,K+1,D], rows of each view's bank: the positive, then K negatives.
        graph: 'core' or 'full', see `view_pairs`.

    Returns:
        float32 [P,2,B,K+1]: for the pair (i, j) first f_i with view j, then f_j with view i.

    Raises:
        ValueError: inconsistent shapes, fewer than two views.
        UserError: an unknown graph.

    Example:
        >>> f, rows = jnp.eye(2)[:, None], jnp.eye(2)[:, None, None]
        >>> multiview_scores(f, rows, graph='core').shape
        (1, 2, 1, 1)

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, equations 5 to 8;
        https://github.com/HobbitLong/CMC, NCE/NCEAverage.py: out_l = memory_ab . l.
    """
    if (
        features.ndim != 3
        or candidates.ndim != 4
        or (candidates.shape[:2] + candidates.shape[3:] != features.shape)
    ):
        raise ValueError(
            "multiview_scores expects features [V,B,D] and candidates [V,B,K+1,D], found "
            f"{features.shape} and {candidates.shape}."
        )
    f, rows = features.astype(jnp.float32), candidates.astype(jnp.float32)

    def score(anchor: int, other: int) -> Array:
        return jnp.einsum("bd,bkd->bk", f[anchor], rows[other], precision="highest")

    pairs = view_pairs(len(f), graph=graph)
    return jnp.stack([jnp.stack([score(i, j), score(j, i)]) for i, j in pairs])


def in_batch_scores(features: Array, *, graph: str, axis_name: str | None = None) -> Array:
    """Computes the similarities of anchors with the other view of the global batch.

    Not in the official code, which uses a bank. No memory bank is needed, and the gradient flows
    through both sides of each pair; the number of negatives is limited by the batch size.

    Args:
        features: float [V,B,D], unit vectors, on this device.
        graph: 'core' or 'full', see `view_pairs`.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [P,2,B,N+1]: column 0 is the positive, then the N examples of the batch, with -inf
        for the positive, so that K = N - 1.

    Raises:
        ValueError: features that are not [V,B,D], fewer than two views.
        UserError: an unknown graph.

    Example:
        >>> scores = in_batch_scores(jnp.ones((2, 3, 1)), graph='core')
        >>> print(scores[0, 0, 0])
        [  1. -inf   1.   1.]

    Reference: the batch as set S of Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849,
        equation 2, k = N - 1.
    """
    if features.ndim != 3:
        raise ValueError(f"in_batch_scores expects features [V,B,D], found {features.shape}.")
    f = features.astype(jnp.float32)
    everyone = jnp.swapaxes(all_gather(jnp.swapaxes(f, 0, 1), axis_name), 0, 1)  # [V,N,D]
    B, N = f.shape[1], everyone.shape[1]
    own = jax.nn.one_hot(global_index(B, axis_name) + jnp.arange(B), N, dtype=jnp.bool)

    def score(anchor: int, other: int) -> Array:
        logits = jnp.einsum("bd,nd->bn", f[anchor], everyone[other], precision="highest")
        positive = jnp.sum(jnp.where(own, logits, 0.0), axis=1, keepdims=True)
        return jnp.concatenate([positive, jnp.where(own, -jnp.inf, logits)], axis=1)

    pairs = view_pairs(len(f), graph=graph)
    return jnp.stack([jnp.stack([score(i, j), score(j, i)]) for i, j in pairs])


def nce_normalizer(
    scores: Array, *, temperature: float, num_examples: int, axis_name: str | None = None
) -> Array:
    """Estimates Z of `nce` from one batch: M times the mean of exp(score / T). No gradient.

    Args:
        scores: float [...,B,K+1], of the examples on this device.
        temperature: T > 0.
        num_examples: M of the data set.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [...], one for each pair and direction.

    Raises:
        ValueError: fewer than two axes or temperature not above 0.

    Example:
        >>> print(nce_normalizer(jnp.zeros((2, 3)), temperature=0.07, num_examples=10))
        10.0

    Reference: https://github.com/HobbitLong/CMC, NCE/NCEAverage.py: set by the first batch, once.
    """
    _check(scores, temperature)
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    mean = jnp.mean(jnp.exp(scores / temperature), axis=(-2, -1))
    return pmean(mean, axis_name) * num_examples


def nce(scores: Array, normalizer: Array, *, temperature: float, num_examples: int) -> Array:
    """Computes the loss of noise-contrastive estimation.

    With P = exp(score / T) / Z, noise p_n = 1 / M and K negatives

        loss = -log(P_0 / (P_0 + K p_n)) - sum_k log(K p_n / (P_k + K p_n))

    Args:
        scores: float [...,B,K+1], the positive in column 0.
        normalizer: float [...], Z from `nce_normalizer`.
        temperature: T > 0; CMC 0.07, on STL-10 0.1.
        num_examples: M of the data set, noise is uniform over it.

    Returns:
        float32 [...,B], in nats; ln(K+1) + K ln(1 + 1/K), about ln(K+1) + 1, if all scores are
        equal and Z is computed from them.

    Raises:
        ValueError: inconsistent shapes, no negatives, temperature not above 0.

    Example:
        >>> scores = jnp.zeros((1, 4097))
        >>> z = nce_normalizer(scores, temperature=0.07, num_examples=50)
        >>> print(nce(scores, z, temperature=0.07, num_examples=50).round(2))
        [9.32]

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, section 3.4; official
        code https://github.com/HobbitLong/CMC, NCE/NCECriterion.py, with eps = 1e-7 in both
        denominators.
    """
    _check(scores, temperature)
    if normalizer.shape != scores.shape[:-2]:
        raise ValueError(
            f"nce expects one normalizer for each of scores' leading axes {scores.shape[:-2]}, "
            f"found {normalizer.shape}."
        )
    p = jnp.exp(scores.astype(jnp.float32) / temperature) / normalizer[..., None, None]
    noise = (scores.shape[-1] - 1) / num_examples
    positive = jnp.log(p[..., 0]) - jnp.log(p[..., 0] + noise + EPS)
    negative = jnp.log(noise) - jnp.log(p[..., 1:] + noise + EPS)
    return -positive - jnp.sum(negative, axis=-1)


def nce_softmax(scores: Array, *, temperature: float) -> Array:
    """Computes the InfoNCE loss: the cross entropy of the positive among the candidates.

        L_contrast = -log(exp(s_0 / T) / sum_k exp(s_k / T))

    Args:
        scores: float [...,B,K+1], the positive in column 0; -inf masks a candidate.
        temperature: T > 0.

    Returns:
        float32 [...,B], in nats; ln(K+1) if all scores are equal.

    Raises:
        ValueError: no negatives, temperature not above 0.

    Example:
        >>> print(nce_softmax(jnp.zeros((1, 8)), temperature=0.07).round(4))
        [2.0794]

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, equation 2; official code
        https://github.com/HobbitLong/CMC, NCE/NCECriterion.py, NCESoftmaxLoss.
    """
    _check(scores, temperature)
    logits = scores.astype(jnp.float32) / temperature
    return jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]


def mutual_information_bound(loss: Array, *, num_negatives: int) -> Array:
    """Computes the lower bound of the mutual information, I(z_i; z_j) >= log(k) - L_contrast.

    Args:
        loss: float [...], expected `nce_softmax` of one direction.
        num_negatives: k, negatives of one positive. The bound never exceeds log(k).

    Returns:
        float32 [...], in nats; at chance ln(k) - ln(k+1), just below 0.

    Raises:
        ValueError: num_negatives below 1.

    Example:
        >>> print(mutual_information_bound(jnp.log(8.0), num_negatives=7).round(4))
        -0.1335

    Reference: Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, equation 4.
    """
    if num_negatives < 1:
        raise ValueError(f"The bound needs negatives, found num_negatives={num_negatives}.")
    return math.log(num_negatives) - jnp.asarray(loss, jnp.float32)


def _check(scores: Array, temperature: float) -> None:
    if jnp.ndim(scores) < 2 or jnp.shape(scores)[-1] < 2:
        raise ValueError(
            f"Scores are [...,B,K+1] with one negative or more; found {jnp.shape(scores)}."
        )
    if not_positive(temperature):
        raise ValueError(f"Expected temperature > 0, found {temperature} with {scores.shape}.")
