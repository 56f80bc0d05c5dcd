"""Convolution for XLA's CPU backend: fewer multiplications, in efficient matrix products.

A 3x3 convolution is a small convolution along the rows of 1-D convolutions along the columns:

    y[h] = sum over a of  x[h + a] * k[a]              (* : 1-D, along the width)

and a bilinear algorithm (A, G, B) for the outer one needs R products for m rows of output,

    y_i = sum_r A[i,r] ( (sum_a G[r,a] k[a]) * (sum_j B[r,j] x_j) ),        i < m, j < T

where x_0..x_T-1 are the T input rows of a tile of m output rows. Directly, R = m kh. Winograd's
F(4,3) has m = 4 with R = 6 in place of 12: half the multiplications, at about twice the rounding
error of float32 (3e-7 of the norm becomes 1e-6). Its transposes are the gradients: with
t_r = sum_j B[r,j] x_j, U_r = sum_a G[r,a] k[a] and dM_r = sum_i A[i,r] dy_i,

    dk[a] = sum_r G[r,a] (t_r correlated with dM_r),    dx_j = sum_r B[r,j] (dM_r * U_r transposed)

With a stride, and for 1x1 kernels, the taps are concatenated instead (im2col), for one matrix
product: with a stride of 2 they have only kh kw / 4 of the input's size. Everything is in float32.

Reference: Lavin and Gray, CVPR 2016, https://arxiv.org/abs/1509.09308 (there in two dimensions).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jssl.types import Array, PyTree

Padding = tuple[tuple[int, int], tuple[int, int]]


class Bilinear(NamedTuple):
    """An algorithm for a 1-D correlation: y = A [(G k) (B x)], see the top of this file."""

    A: np.ndarray  # [m, R]
    G: np.ndarray  # [R, kh]
    B: np.ndarray  # [R, T]


# Interpolation at 0, 1, -1, 2, -2 and infinity.
F43 = Bilinear(
    A=np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    ),
    G=np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    B=np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
)


def direct(kh: int) -> Bilinear:
    """Returns the direct algorithm: one output row, kh products."""
    return Bilinear(A=np.ones((1, kh)), G=np.eye(kh), B=np.eye(kh))


def supported(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> bool:
    """Whether this file supports these arguments and is faster than the plain convolution."""
    kh, kw, C, _ = kernel.shape
    narrow = x.dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    if not narrow or strides[0] != strides[1] or strides[0] > 2 or x.size == 0:
        return False
    if (kh, kw) == (1, 1):
        return not any(np.ravel(padding))
    return (kh, kw) == (3, 3) and C >= 16 and all(0 <= p <= 2 for p in np.ravel(padding))


def forward(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """x [B,H,W,C] * kernel [kh,kw,C,O] -> [B,Ho,Wo,O] in the type of x."""
    dtype, x, kernel = x.dtype, x.astype(jnp.float32), kernel.astype(jnp.float32)
    if _by_rows(kernel.shape, strides):
        y = _forward_rows(x, kernel, padding)
    else:
        patches = columns(x, kernel.shape, strides[0], padding)
        y = jnp.tensordot(patches, kernel.reshape(-1, kernel.shape[-1]), 1)
    return _settle(y.astype(dtype))


def backward(
    x: Array, kernel: Array, dy: Array, strides: tuple[int, int], padding: Padding
) -> tuple[Array, Array]:
    """Gradients (dx, dkernel) of `forward` for the cotangent dy [B,Ho,Wo,O]."""
    types = (x.dtype, kernel.dtype)
    x, kernel, dy = (a.astype(jnp.float32) for a in (x, kernel, dy))
    gradients = _backward_rows if _by_rows(kernel.shape, strides) else _backward_columns
    dx, dk = gradients(x, kernel, dy, strides[0], padding)
    return _settle((dx.astype(types[0]), dk.astype(types[1])))


def taps(
    x: Array, kernel_shape: Sequence[int], stride: int, padding: Padding, dilation: int = 1
) -> list[Array]:
    """Returns the input of each of the kh kw taps at each output position: [B,Ho,Wo,C]."""
    kh, kw = kernel_shape[:2]
    spread = tuple(dilation * (k - 1) + 1 for k in (kh, kw))
    Ho, Wo = _out_size(x.shape, spread, stride, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, width = stride * (Ho - 1) + 1, stride * (Wo - 1) + 1
    return [
        x[:, i : i + rows : stride, j : j + width : stride]
        for i in range(0, spread[0], dilation)
        for j in range(0, spread[1], dilation)
    ]


def columns(
    x: Array, kernel_shape: Sequence[int], stride: int, padding: Padding, dilation: int = 1
) -> Array:
    """im2col: x [B,H,W,C] -> the concatenated taps, [B,Ho,Wo,kh kw C]."""
    patches = taps(x, kernel_shape, stride, padding, dilation)
    return patches[0] if len(patches) == 1 else jnp.concatenate(patches, axis=-1)


def transposed_dot(a: Array, b: Array) -> Array:
    """a [P,C], b [P,O] -> a^T b [C,O]; stores the transpose, for a faster matrix product."""
    return lax.dot_general(lax.optimization_barrier(a.T), b, (((1,), (0,)), ((), ())))


def _by_rows(kernel_shape: Sequence[int], strides: tuple[int, int]) -> bool:
    return strides[0] == 1 and kernel_shape[0] > 1


def _out_size(x_shape, kernel_shape, stride, padding) -> tuple[int, int]:
    return tuple(
        (size + sum(pads) - k) // stride + 1
        for size, k, pads in zip(x_shape[1:3], kernel_shape[:2], padding, strict=True)
    )


def _backward_columns(x, kernel, dy, stride, padding):
    kh, kw, C, features = kernel.shape
    patches = columns(x, kernel.shape, stride, padding).reshape(-1, kh * kw * C)
    flat = dy.reshape(-1, features)
    if kh * kw == 1:
        dk = transposed_dot(patches, flat)
    else:  # storing the transpose too would cost more than the faster product gains
        dk = lax.dot_general(patches, flat, (((0,), (0,)), ((), ())))
    d_patches = lax.dot_general(flat, kernel.reshape(-1, features), (((1,), (1,)), ((), ())))
    d_patches = d_patches.reshape(*dy.shape[:3], kh, kw, C)
    return _scatter(d_patches, x.shape, stride, padding), dk.reshape(kernel.shape)


def _scatter(d_patches: Array, shape: Sequence[int], stride: int, padding: Padding) -> Array:
    """col2im, the transpose of `columns`: [B,Ho,Wo,kh,kw,C] -> [B,H,W,C].

    Row p of the padded input is row p // stride of phase p mod stride; taps of one phase add up.
    """
    B, Ho, Wo, kh, kw, C = d_patches.shape
    last_row, last_column = (kh - 1) // stride, (kw - 1) // stride

    def phase(a: int, b: int) -> Array:
        parts = [
            jnp.pad(
                d_patches[:, :, :, i, j],
                (
                    (0, 0),
                    (i // stride, last_row - i // stride),
                    (j // stride, last_column - j // stride),
                    (0, 0),
                ),
            )
            for i in range(a, kh, stride)
            for j in range(b, kw, stride)
        ]
        zeros = jnp.zeros((B, Ho + last_row, Wo + last_column, C), d_patches.dtype)
        return sum(parts[1:], parts[0]) if parts else zeros

    grid = [jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    dx = jnp.stack(grid, axis=2)  # [B,h,stride,w,stride,C]
    dx = dx.reshape(B, (Ho + last_row) * stride, (Wo + last_column) * stride, C)
    return _crop(dx, shape, (padding[0][0], padding[1][0]))


def _crop(padded: Array, shape: Sequence[int], start: tuple[int, int]) -> Array:
    """Returns the H x W pixels of `padded` from `start` on, zero-padded."""
    spans = [
        (-begin, size + begin - have, 0)
        for begin, size, have in zip(start, shape[1:3], padded.shape[1:3], strict=True)
    ]
    return lax.pad(padded, 0.0, [(0, 0, 0), *spans, (0, 0, 0)])


def _algorithm(Ho: int) -> Bilinear:
    return F43 if Ho > 2 else direct(3)


def _forward_rows(x, kernel, padding):
    Ho, Wo = _out_size(x.shape, kernel.shape, 1, padding)
    A, G, B = algorithm = _algorithm(Ho)
    x_rows = _tile(x, algorithm, Ho, padding[0][0])
    M = [_conv1d(_sum(B[r], x_rows), _sum(G[r], kernel), padding[1]) for r in range(len(G))]
    y = jnp.stack([_sum(a, M) for a in A], axis=1)  # [B n, m, Wo, O]
    return y.reshape(x.shape[0], -1, *y.shape[2:])[:, :Ho]


def _backward_rows(x, kernel, dy, stride, padding):
    kh, kw, C, features = kernel.shape
    batch, Ho, W = x.shape[0], dy.shape[1], x.shape[2]
    A, G, B = algorithm = _algorithm(Ho)
    m, tiles = len(A), -(-Ho // len(A))
    x_rows = _tile(x, algorithm, Ho, padding[0][0])
    # k_rows[a] [C, kw features], so that both products below are plain matrix products
    k_rows = [kernel[a].transpose(1, 0, 2).reshape(C, kw * features) for a in range(kh)]
    edge = tuple(kw - 1 - p for p in padding[1])
    dy = jnp.pad(dy, ((0, 0), (0, tiles * m - Ho), edge, (0, 0)))
    dy = dy.reshape(-1, m, *dy.shape[2:])  # [B n, m, W+kw-1, features]
    dy_rows = [dy[:, i] for i in range(m)]
    dU, dt = [], []
    for r in range(len(G)):
        # shifted[w, b] = dM_r[w - b], every tap of the 1-D convolution side by side
        dM = _sum(A[:, r], dy_rows)
        shifted = jnp.stack([dM[:, kw - 1 - b : kw - 1 - b + W] for b in range(kw)], axis=2)
        shifted = shifted.reshape(-1, kw * features)
        t = _sum(B[r], x_rows).reshape(-1, C)
        dU.append(lax.dot_general(t, shifted, (((0,), (0,)), ((), ()))))
        dt.append(lax.dot_general(shifted, _sum(G[r], k_rows), (((1,), (1,)), ((), ()))))
    dk = jnp.stack([_sum(G[:, a], dU) for a in range(kh)])
    dk = dk.reshape(kh, C, kw, features).transpose(0, 2, 1, 3)
    dt = [t.reshape(batch, tiles, W, C) for t in dt]
    dx_rows = [_sum(B[:, j], dt) for j in range(B.shape[1])]
    return _untile(dx_rows, m, x.shape, padding[0][0]), dk


def _tile(x: Array, algorithm: Bilinear, Ho: int, top: int) -> list[Array]:
    """x [B,H,W,C] -> the T input rows of every tile of m output rows, each [B n, W, C]."""
    B, H, W, C = x.shape
    m, T = len(algorithm.A), algorithm.B.shape[1]
    n = -(-Ho // m)
    blocks = n + (T - 1) // m
    x = lax.pad(x, 0.0, [(0, 0, 0), (top, blocks * m - H - top, 0), (0, 0, 0), (0, 0, 0)])
    x = x.reshape(B, blocks, m, W, C)
    return [x[:, j // m : j // m + n, j % m].reshape(B * n, W, C) for j in range(T)]


def _untile(rows: Sequence[Array], m: int, shape: Sequence[int], top: int) -> Array:
    """The transpose of `_tile`: rows [B,n,W,C] of tiles that overlap are added."""
    B, n, W, C = rows[0].shape
    extra = (len(rows) - 1) // m
    sums = []
    for phase in range(m):
        parts = [
            jnp.pad(rows[j], ((0, 0), (j // m, extra - j // m), (0, 0), (0, 0)))
            for j in range(phase, len(rows), m)
        ]
        sums.append(sum(parts[1:], parts[0]))
    x = jnp.stack(sums, axis=2).reshape(B, (n + extra) * m, W, C)
    return _crop(x, shape, (top, 0))


def _sum(weights: np.ndarray, terms: Sequence[Array]) -> Array:
    """Returns the linear combination, skipping terms of weight 0."""
    parts = [t if w == 1 else float(w) * t for w, t in zip(weights, terms, strict=True) if w]
    return sum(parts[1:], parts[0])


def _conv1d(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """x [N,W,C] * kernel [k,C,O] -> [N,Wo,O]."""
    numbers = ("NHC", "HIO", "NHC")
    return lax.conv_general_dilated(x, kernel, (1,), (padding,), dimension_numbers=numbers)


def _settle(tree: PyTree) -> PyTree:
    """Identity that makes XLA compute these arrays together, once."""
    zero = lax.optimization_barrier(jnp.int32(0))
    return lax.while_loop(
        lambda c: c[0] < zero,
        lambda c: (c[0] + 1, jax.tree.map(lambda a: -a, c[1])),
        (jnp.int32(0), tree),
    )[1]
