"""Losses of momentum contrast (MoCo): queries against keys without gradient."""

import jax
import jax.numpy as jnp

from jssl.losses._checks import not_positive
from jssl.losses.classification import cross_entropy, top_k_correct
from jssl.numerics import unit_rows
from jssl.parallel.collectives import all_gather, global_index
from jssl.types import Array


def info_nce(
    queries: Array, keys: Array, queue: Array, *, temperature: float, normalize: bool = True
) -> Array:
    """Computes MoCo's loss, InfoNCE with a queue of negatives, per example.

        l_i = -log( exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum over j of exp(q_i.queue_j / T)) )

    the cross entropy over K + 1 classes with label 0. Keys and queue get no gradient. The caller
    takes the mean over examples.

    Args:
        queries: [B,D] float, of one view, from the online network.
        keys: [B,D] float, of the other view, from the key network; `keys[i]` is the positive of
            `queries[i]`.
        queue: [K,D] float, keys of earlier batches; equal on every device, so that no
            communication is needed.
        temperature: T > 0; MoCo v1: 0.07, v2: 0.2.
        normalize: divide queries and keys by their norms; the queue is used unchanged.

    Returns:
        float32 [B], in nats; ln(K+1) at uniform logits.

    Raises:
        ValueError: other shapes, arrays that are not float, temperature not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.ones((2, 4))  # every pair is equally similar: ln(7 + 1)
        >>> loss = info_nce(z, z, jnp.full((7, 4), 0.5), temperature=0.07)
        >>> [round(float(value), 4) for value in loss]
        [2.0794, 2.0794]

    Reference:
        He et al., CVPR 2020, https://arxiv.org/abs/1911.05722, equation 1 and Algorithm 1.
        Official code: https://github.com/facebookresearch/moco, moco/builder.py.
    """
    return info_nce_with_top1(queries, keys, queue, temperature=temperature, normalize=normalize)[0]


def info_nce_with_top1(
    queries: Array, keys: Array, queue: Array, *, temperature: float, normalize: bool = True
) -> tuple[Array, Array]:
    """Computes `info_nce` and its top-1 accuracy over the K + 1 candidates.

    Args:
        queries: [B,D] float.
        keys: [B,D] float, the positives.
        queue: [K,D] float, the negatives.
        temperature: T > 0.
        normalize: divide queries and keys by their norms.

    Returns:
        loss: float32 [B], as in `info_nce`.
        top1: float32 [B], 1 or 0; 1 / (K+1) by chance. Ties count as wrong, so that collapsed
            embeddings score 0. Without gradient.

    Raises:
        ValueError: as `info_nce`.

    Example:
        >>> import jax.numpy as jnp
        >>> _, top1 = info_nce_with_top1(jnp.eye(2), jnp.eye(2), -jnp.eye(2), temperature=0.2)
        >>> print(top1)
        [1. 1.]

    Reference:
        He et al., CVPR 2020, https://arxiv.org/abs/1911.05722, equation 1; the accuracy is the
        `Acc@1` of the official code, https://github.com/facebookresearch/moco.
    """
    _check("info_nce", temperature, queries=queries, keys=keys, queue=queue)
    q, k = _prepared(queries, normalize), jax.lax.stop_gradient(_prepared(keys, normalize))
    negatives = jax.lax.stop_gradient(queue.astype(jnp.float32))
    positive = jnp.sum(q * k, axis=1, keepdims=True)  # [B,1]
    # 'highest': TPUs would multiply in bfloat16.
    others = jnp.einsum("bd,kd->bk", q, negatives, precision="highest")
    logits = jnp.concatenate([positive, others], axis=1) / temperature  # [B,1+K]
    labels = jnp.zeros(len(q), jnp.int32)
    top1 = top_k_correct(jax.lax.stop_gradient(logits), labels, k=1)
    return cross_entropy(logits, labels), top1


def symmetric_info_nce(
    q_a: Array,
    q_b: Array,
    k_a: Array,
    k_b: Array,
    *,
    temperature: float,
    normalize: bool = True,
    axis_name: str | None = None,
) -> Array:
    """Computes MoCo v3's loss: queries against the keys of the other view, in both directions.

        ctr(q, k)_i = -2 T log( exp(q_i.k_i / T) / sum over j of exp(q_i.k_j / T) )
        l_i = ctr(q_a, k_b)_i + ctr(q_b, k_a)_i

    with the keys of the other view of the global batch as candidates. The factor 2 T gives a
    gradient scale equal to BYOL's loss at any temperature. Keys get no gradient. The caller takes
    the mean over examples.

    Args:
        q_a, q_b: [B,D] float, the predictor's output for the first and the second view.
        k_a, k_b: [B,D] float, the key network's output for the first and the second view.
        temperature: T > 0; 1.0 for the ResNet, 0.2 for the ViT.
        normalize: divide each embedding by its norm.
        axis_name: the batch axis, or None on one device. Only keys are gathered over it.

    Returns:
        float32 [B]; 4 T ln N at uniform logits.

    Raises:
        ValueError: embeddings that are not of one shape [B,D] or not float, temperature not
            above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.ones((2, 3))  # 4 T ln 2
        >>> [round(float(v), 4) for v in symmetric_info_nce(z, z, z, z, temperature=1.0)]
        [2.7726, 2.7726]

    Reference:
        Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057, Algorithm 1. Official code:
        https://github.com/facebookresearch/moco-v3, moco/builder.py.
    """
    return symmetric_info_nce_with_top1(
        q_a, q_b, k_a, k_b, temperature=temperature, normalize=normalize, axis_name=axis_name
    )[0]


def symmetric_info_nce_with_top1(
    q_a: Array,
    q_b: Array,
    k_a: Array,
    k_b: Array,
    *,
    temperature: float,
    normalize: bool = True,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Computes `symmetric_info_nce` and its top-1 accuracy.

    Args:
        q_a, q_b: [B,D] float, queries of both views.
        k_a, k_b: [B,D] float, keys of both views.
        temperature: T > 0.
        normalize: divide each embedding by its norm.
        axis_name: the batch axis, or None on one device.

    Returns:
        loss: float32 [B], as in `symmetric_info_nce`.
        top1: float32 [B], 0, 0.5 or 1, the mean of both directions; 1 / N by chance. Ties count
            as wrong. Without gradient.

    Raises:
        ValueError: as `symmetric_info_nce`.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.eye(3)
        >>> print(symmetric_info_nce_with_top1(z, z, z, z, temperature=1.0)[1])
        [1. 1. 1.]

    Reference:
        Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057, Algorithm 1.
    """
    _check("symmetric_info_nce", temperature, q_a=q_a, q_b=q_b, k_a=k_a, k_b=k_b)
    example = global_index(len(q_a), axis_name) + jnp.arange(len(q_a))  # [B], indices among N

    def contrast(queries: Array, keys: Array) -> tuple[Array, Array]:
        q = _prepared(queries, normalize)
        k = all_gather(jax.lax.stop_gradient(_prepared(keys, normalize)), axis_name)  # [N,D]
        logits = jnp.einsum("bd,nd->bn", q, k, precision="highest") / temperature
        top1 = top_k_correct(jax.lax.stop_gradient(logits), example, k=1)
        return 2 * temperature * cross_entropy(logits, example), top1

    (loss_ab, top1_ab), (loss_ba, top1_ba) = contrast(q_a, k_b), contrast(q_b, k_a)
    return loss_ab + loss_ba, (top1_ab + top1_ba) / 2


def _prepared(z: Array, normalize: bool) -> Array:
    """Casts to float32 and optionally normalises, with a floor of 1e-12 on the squared norm."""
    return unit_rows(z) if normalize else z.astype(jnp.float32)


def _check(name: str, temperature: float, **arrays: Array) -> None:
    """Checks that all are float [.,D], and of one shape except for a queue."""
    description = ", ".join(
        f"{k} {jnp.result_type(v).name} {jnp.shape(v)}" for k, v in arrays.items()
    )
    shapes = {k: jnp.shape(v) for k, v in arrays.items()}
    queue = shapes.pop("queue", None)
    (shape, *others) = dict.fromkeys(shapes.values())
    if others or len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} expects embeddings of one shape [B,D], found {description}.")
    if queue is not None and (len(queue) != 2 or queue[1] != shape[1]):
        raise ValueError(f"{name} expects a queue [K,D] of the queries' D, found {description}.")
    if not all(jnp.issubdtype(jnp.result_type(v), jnp.floating) for v in arrays.values()):
        raise ValueError(f"{name} expects float arrays, found {description}.")
    if not_positive(temperature):
        raise ValueError(f"{name} expects temperature > 0, found {temperature} with {description}.")
