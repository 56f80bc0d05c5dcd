"""Attention, dense layers and GELU of a transformer, with fast gradients on a CPU.

    attention:  Y = P V,  P = softmax(Q K^T / sqrt(d) + bias)           for each image and head
    gradients:  dV = P^T dY,  dP = dY V^T,  dS = P * (dP - rowsum(dY * Y))
                dQ = dS K / sqrt(d),  dK = dS^T Q / sqrt(d),  dbias = sum of dS over the images

XLA's CPU backend needs about twice the time for a batched product with a transposed operand: so the
heads are separated by one copy, P and dS are transposed by one copy each, and the tokens of all
images are the rows of one matrix in a dense layer.
`jax.lax.platform_dependent` chooses at lowering, as in `conv`: for TPU and GPU, and for other types
than float32, only `jax.nn.dot_product_attention`, `lax.dot_general` and `nn.gelu` remain.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jssl.models.conv import is_plain
from jssl.types import Array


def attention(qkv: Array, bias: Array | None = None) -> Array:
    """Scaled dot-product attention of every token to all tokens of its image.

    Args:
        qkv: [B,N,3,heads,d]: queries, keys and values.
        bias: [1,heads,N,N], added to the logits; None: no bias.

    Returns:
        [B,N,heads,d], of qkv's dtype; logits and softmax are float32 for any dtype.

    Example:
        >>> qkv = jnp.stack([jnp.zeros((2, 1, 1)), jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1))], 1)
        >>> print(attention(qkv[None]).ravel())
        [1. 1.]
    """
    arguments = (qkv,) if bias is None else (qkv, bias)
    if is_plain() or any(a.dtype != jnp.float32 for a in arguments):
        return _plain_attention(*arguments)
    return lax.platform_dependent(*arguments, cpu=_attention_cpu, default=_plain_attention)


def gelu(x: Array) -> Array:
    """x times the normal distribution function of x.

    Example:
        >>> print(gelu(jnp.array([-1.0, 0.0, 1.0])).round(2))
        [-0.16  0.    0.84]
    """
    plain = functools.partial(nn.gelu, approximate=False)
    if is_plain() or x.dtype != jnp.float32:
        return plain(x)
    return lax.platform_dependent(x, cpu=_gelu_cpu, default=plain)


def dot_rows(x: Array, kernel: Array, dims: Any, **options: Any) -> Array:
    """`lax.dot_general` for `nn.Dense`: x [B,N,D] times kernel [D,F] -> [B,N,F].

    Example:
        >>> nn.Dense(3, dot_general=dot_rows).init_with_output(
        ...     jax.random.key(0), jnp.ones((2, 5, 4)))[0].shape
        (2, 5, 3)
    """

    def plain(x: Array, kernel: Array) -> Array:
        return lax.dot_general(x, kernel, dims, **options)

    if is_plain() or x.dtype != jnp.float32:
        return plain(x, kernel)
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_dot_rows_cpu, **options), default=plain
    )


def _plain_attention(qkv: Array, bias: Array | None = None) -> Array:
    q, k, v = jnp.moveaxis(qkv, 2, 0)
    return jax.nn.dot_product_attention(q, k, v, bias=bias)


@jax.custom_vjp
def _gelu_cpu(x: Array) -> Array:
    """x F(x) with F by erf, quicker than the erfc of `nn.gelu`; keeps x alone for the gradient."""
    return x * _normal_cdf(x)


def _gelu_gradient(x: Array, dy: Array) -> tuple[Array]:
    """F(x) + x F'(x), times dy."""
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (dy * (_normal_cdf(x) + x * density),)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))


_gelu_cpu.defvjp(lambda x: (_gelu_cpu(x), x), _gelu_gradient)


def _dot_rows_cpu(x: Array, kernel: Array, **options: Any) -> Array:
    y = lax.dot(x.reshape(-1, x.shape[-1]), kernel, **options)
    return y.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _attention_cpu(qkv: Array, bias: Array | None = None) -> Array:
    return _forward(qkv, bias)[0]


def _forward(qkv: Array, bias: Array | None = None) -> tuple[Array, tuple[Any, ...]]:
    B, N, _, heads, d = qkv.shape
    parts = qkv.transpose(2, 0, 3, 1, 4).reshape(3, B * heads, N, d)
    q, k, v = parts
    logits = _product(q, k, 2, 2) / math.sqrt(d)
    if bias is not None:
        logits = (logits.reshape(B, heads, N, N) + bias).reshape(logits.shape)
    p = jax.nn.softmax(logits)
    y = _product(p, v, 2, 1)
    saved = parts, p, y, bias is not None
    return y.reshape(B, heads, N, d).transpose(0, 2, 1, 3), saved


def _backward(saved: tuple[Any, ...], dy: Array) -> tuple[Array, Array | None]:
    (q, k, v), p, y, has_bias = saved
    B, N, heads, d = dy.shape
    dy = dy.transpose(0, 2, 1, 3).reshape(y.shape)
    ds = p * (_product(dy, v, 2, 2) - jnp.sum(dy * y, -1, keepdims=True))
    dv = _product(_transposed(p), dy, 2, 1)
    dq = _product(ds, k, 2, 1) / math.sqrt(d)
    dk = _product(_transposed(ds), q, 2, 1) / math.sqrt(d)
    dqkv = jnp.stack([dq, dk, dv]).reshape(3, B, heads, N, d).transpose(1, 3, 0, 2, 4)
    return dqkv, ds.reshape(B, heads, N, N).sum(0, keepdims=True) if has_bias else None


_attention_cpu.defvjp(_forward, _backward)


def _product(a: Array, b: Array, i: int, j: int) -> Array:
    """Matrix product for each image and head, over axis i of a and j of b."""
    return lax.dot_general(a, b, (((i,), (j,)), ((0,), (0,))))


def _transposed(a: Array) -> Array:
    """The transpose of each matrix, stored, for a faster product."""
    return lax.optimization_barrier(a.transpose(0, 2, 1))
