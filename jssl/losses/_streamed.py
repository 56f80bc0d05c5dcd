"""NT-Xent's sums over candidates in blocks, in memory linear in the batch size.

The logits of B examples against N candidates are never all in memory. The forward pass computes the
logsumexp with a running maximum and sum; the backward pass recomputes each block's softmax from it
(the same idea as Dao et al., FlashAttention, NeurIPS 2022, https://arxiv.org/abs/2205.14135,
section 3.1).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.types import Array

LEAST = -1e30  # below every logit, but finite: inf - inf would be NaN


def _blocks(everyone: Array, block: int) -> tuple[Array, Array]:
    """Returns [2,N,D] as [blocks,2,block,D], zero-padded, and the indices [blocks,block]."""
    N = everyone.shape[1]
    count = -(-N // block)
    padded = jnp.pad(everyone, ((0, 0), (0, count * block - N), (0, 0)))
    parts = padded.reshape(2, count, block, -1)
    return jnp.swapaxes(parts, 0, 1), jnp.arange(count * block).reshape(count, block)


def _logits(z: Array, part: Array) -> Array:
    return jnp.einsum("vbd,wnd->vbwn", z, part, precision="highest")


def _masks(example: Array, index: Array, N: int) -> tuple[Array, Array, Array]:
    """Returns masks of the candidates excluded from the sum, of the positive, and of padding."""
    same = (example[:, None] == index[None, :])[None, :, None, :]
    same_view = jnp.eye(2, dtype=jnp.bool)[:, None, :, None]
    padding = jnp.broadcast_to((index >= N)[None, None, None, :], same.shape)
    return jnp.logical_and(same, same_view) | padding, jnp.logical_and(same, ~same_view), padding


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def sums(z: Array, everyone: Array, example: Array, block: int) -> tuple[Array, Array, Array]:
    """Computes NT-Xent's sums of the logits `z . everyone`.

    Args:
        z: float32 [2,B,D], this device's embeddings, divided by the temperature.
        everyone: float32 [2,N,D], the candidates.
        example: int32 [B], index of each example among N.
        block: candidates at a time.

    Returns:
        total: float32 [2,B], the logsumexp over all candidates except the example itself.
        positive: float32 [2,B], the logit of the other view.
        rival: float32 [2,B], the largest logit of another example in the other view; no gradient.
    """
    N = everyone.shape[1]

    def body(carry, inputs):
        top, total, positive, rival = carry
        part, index = inputs
        logits = _logits(z, part)
        excluded, is_positive, padding = _masks(example, index, N)
        kept = jnp.where(excluded, -jnp.inf, logits)
        new_top = jnp.maximum(top, jnp.max(kept, axis=(2, 3)))
        total = total * jnp.exp(top - new_top)
        total += jnp.sum(jnp.exp(kept - new_top[:, :, None, None]), axis=(2, 3))
        positive += jnp.sum(jnp.where(is_positive, logits, 0.0), axis=(2, 3))
        other_view = ~jnp.eye(2, dtype=jnp.bool)[:, None, :, None]
        others = jnp.where(other_view & ~is_positive & ~padding, logits, -jnp.inf)
        rival = jnp.maximum(rival, jnp.max(others, axis=(2, 3)))
        return (new_top, total, positive, rival), None

    zero = jnp.zeros(z.shape[:2], jnp.float32)
    first = (zero + LEAST, zero, zero, zero - jnp.inf)
    (top, total, positive, rival), _ = jax.lax.scan(body, first, _blocks(everyone, block))
    return top + jnp.log(total), positive, rival


def _forward(z: Array, everyone: Array, example: Array, block: int):
    out = sums(z, everyone, example, block)
    return out, (z, everyone, example, out[0])


def _backward(block: int, residuals: Any, cotangents: Any):
    z, everyone, example, total = residuals
    g_total, g_positive, _ = (g[:, :, None, None] for g in cotangents)
    N = everyone.shape[1]

    def body(grad, inputs):
        part, index = inputs
        excluded, is_positive, _ = _masks(example, index, N)
        kept = jnp.where(excluded, -jnp.inf, _logits(z, part))
        softmax = jnp.exp(kept - total[:, :, None, None])
        g = g_total * softmax + jnp.where(is_positive, g_positive, 0.0)
        grad += jnp.einsum("vbwn,wnd->vbd", g, part, precision="highest")
        return grad, jnp.einsum("vbwn,vbd->wnd", g, z, precision="highest")

    grad, parts = jax.lax.scan(body, jnp.zeros_like(z), _blocks(everyone, block))
    grad_everyone = jnp.swapaxes(parts, 0, 1).reshape(2, -1, z.shape[-1])[:, :N]
    return grad, grad_everyone, np.zeros(example.shape, jax.dtypes.float0)


sums.defvjp(_forward, _backward)
