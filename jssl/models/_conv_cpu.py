"""Convolution for XLA's CPU backend: fewer multiplications, and matrix products of good shapes.

A 3x3 convolution is a small convolution along the rows of 1-D convolutions along the columns:

    y[h] = sum over a of  x[s h + a] * k[a]            (* : 1-D, along the width)

and a bilinear algorithm (A, G, B) for the outer one needs R products for m rows of output,

    y_i = sum_r A[i,r] ( (sum_a G[r,a] k[a]) * (sum_j B[r,j] x_j) ),        i < m, j < T

where x_0..x_T-1 are the T input rows of a tile of m output rows. Directly, R = m kh. Winograd's
F(4,3) has m = 4 with R = 6 in place of 12: half the multiplications, at about twice the rounding
error of float32 (3e-7 of the norm becomes 1e-6). Its transposes are the gradients: with
t_r = sum_j B[r,j] x_j, U_r = sum_a G[r,a] k[a] and dM_r = sum_i A[i,r] dy_i,

    dk[a] = sum_r G[r,a] (t_r correlated with dM_r),    dx_j = sum_r B[r,j] (dM_r * U_r transposed)

A stride along the width is folded into the channels first. Everything runs in float32.

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
    """An algorithm for a 1-D correlation: y = A [(G k) (B x)], see the head of this file."""

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
    """The definition itself: one output row, kh products."""
    return Bilinear(A=np.ones((1, kh)), G=np.eye(kh), B=np.eye(kh))


class Plan(NamedTuple):
    """Sizes of one convolution, all static."""

    rows: Bilinear
    tiles: int  # n, tiles of m output rows
    step: int  # input rows from one tile to the next
    kernel_width: int  # after folding
    top: int
    left: int  # padding of the array itself
    width: int  # W after padding and folding
    taps: tuple[int, int]  # padding of the 1-D convolution
    out: tuple[int, int]  # Ho, Wo


def supported(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> bool:
    """Whether this file is faster than the plain convolution and takes these arguments."""
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
    if kernel.shape[:2] == (1, 1):
        x = x[:, :: strides[0], :: strides[1]]
        return jnp.tensordot(x, kernel[0, 0], 1).astype(dtype)
    plan = _plan(x.shape, kernel.shape, strides, padding)
    A, G, B = plan.rows
    x_rows, k_rows = _tile(x, plan), _fold_kernel(kernel, strides[1])
    M = [_conv1d(_sum(B[r], x_rows), _sum(G[r], k_rows), plan.taps) for r in range(len(G))]
    y = jnp.stack([_sum(a, M) for a in A], axis=1)  # [B n, m, Wo, O]
    y = y.reshape(x.shape[0], -1, *y.shape[2:])[:, : plan.out[0]]
    return _settle(y.astype(dtype))


def backward(
    x: Array, kernel: Array, dy: Array, strides: tuple[int, int], padding: Padding
) -> tuple[Array, Array]:
    """Gradients (dx, dkernel) of `forward` for the cotangent dy [B,Ho,Wo,O]."""
    types, shape = (x.dtype, kernel.dtype), x.shape
    x, kernel, dy = (a.astype(jnp.float32) for a in (x, kernel, dy))
    if kernel.shape[:2] == (1, 1):
        dx, dk = _backward_1x1(x, kernel, dy, strides)
    else:
        plan = _plan(x.shape, kernel.shape, strides, padding)
        dx, dk = _backward_rows(x, kernel, dy, strides, plan)
    return _settle((dx.reshape(shape).astype(types[0]), dk.astype(types[1])))


def _backward_1x1(x, kernel, dy, strides):
    _, H, W, C = x.shape
    s = strides[0]
    dx = jnp.tensordot(dy, kernel[0, 0], (3, 1))
    Ho, Wo = dy.shape[1:3]
    if s > 1:
        dx = lax.pad(
            dx,
            0.0,
            [
                (0, 0, 0),
                (0, H - (Ho - 1) * s - 1, s - 1),
                (0, W - (Wo - 1) * s - 1, s - 1),
                (0, 0, 0),
            ],
        )
    dk = _transposed_dot(x[:, ::s, ::s].reshape(-1, C), dy.reshape(-1, dy.shape[-1]))
    return dx, dk[None, None]


def _backward_rows(x, kernel, dy, strides, plan):
    (A, G, B), kw, Wf = plan.rows, plan.kernel_width, plan.width
    batch, features = x.shape[0], dy.shape[-1]
    x_rows = _tile(x, plan)
    Cf = x_rows[0].shape[-1]
    # k_rows[a] [Cf, kw features], so that both products below are plain matrix products
    k_rows = [
        k.transpose(1, 0, 2).reshape(Cf, kw * features) for k in _fold_kernel(kernel, strides[1])
    ]
    edge = tuple(kw - 1 - p for p in plan.taps)
    dy = jnp.pad(dy, ((0, 0), (0, plan.tiles * len(A) - dy.shape[1]), edge, (0, 0)))
    dy = dy.reshape(-1, len(A), *dy.shape[2:])  # [B n, m, Wf+kw-1, features]
    dy_rows = [dy[:, i] for i in range(len(A))]
    dU, dt = [], []
    for r in range(len(G)):
        # shifted[w, b] = dM_r[w - b], every tap of the 1-D convolution side by side
        dM = _sum(A[:, r], dy_rows)
        shifted = jnp.stack([dM[:, kw - 1 - b : kw - 1 - b + Wf] for b in range(kw)], axis=2)
        shifted = shifted.reshape(-1, kw * features)
        dU.append(_transposed_dot(_sum(B[r], x_rows).reshape(-1, Cf), shifted))
        dt.append(lax.dot_general(shifted, _sum(G[r], k_rows), (((1,), (1,)), ((), ()))))
    dk = jnp.stack([_sum(G[:, a], dU) for a in range(G.shape[1])])
    dk = _unfold_kernel(dk.reshape(-1, Cf, kw, features).transpose(0, 2, 1, 3), kernel.shape)
    dt = [t.reshape(batch, plan.tiles, Wf, Cf) for t in dt]
    return _untile([_sum(B[:, j], dt) for j in range(B.shape[1])], plan, x.shape), dk


def _plan(x_shape, k_shape, strides, padding) -> Plan:
    (_, H, W, _), (kh, kw), s = x_shape, k_shape[:2], strides[0]
    (top, bottom), (left, right) = padding
    Ho, Wo = (H + top + bottom - kh) // s + 1, (W + left + right - kw) // s + 1
    rows = F43 if s == 1 and Ho > 2 else direct(kh)
    m = len(rows.A)
    kernel_width = -(-kw // s)
    if s == 1:  # the 1-D convolution pads by itself
        return Plan(rows, -(-Ho // m), m, kw, top, 0, W, (left, right), (Ho, Wo))
    return Plan(
        rows, -(-Ho // m), m * s, kernel_width, top, left, Wo + kernel_width - 1, (0, 0), (Ho, Wo)
    )


def _tile(x: Array, plan: Plan) -> list[Array]:
    """x [B,H,W,C] -> the T input rows of every tile, each [B n, Wf, Cf]."""
    B, H, W, C = x.shape
    T, step, n = plan.rows.B.shape[1], plan.step, plan.tiles
    fold = step // len(plan.rows.A)
    blocks = n + (T - 1) // step
    x = lax.pad(
        x,
        0.0,
        [
            (0, 0, 0),
            (plan.top, blocks * step - H - plan.top, 0),
            (plan.left, plan.width * fold - W - plan.left, 0),
            (0, 0, 0),
        ],
    )
    x = x.reshape(B, blocks, step, plan.width, fold * C)
    return [
        x[:, j // step : j // step + n, j % step].reshape(B * n, plan.width, -1) for j in range(T)
    ]


def _untile(rows: Sequence[Array], plan: Plan, shape) -> Array:
    """The transpose of `_tile`: tiles [B,n,Wf,Cf] that overlap are added."""
    B, H, W, C = shape
    step, n = plan.step, plan.tiles
    fold = step // len(plan.rows.A)
    extra = (len(rows) - 1) // step
    x = []
    for phase in range(step):
        parts = [
            jnp.pad(rows[j], ((0, 0), (j // step, extra - j // step), (0, 0), (0, 0)))
            for j in range(phase, len(rows), step)
        ]
        x.append(sum(parts[1:], parts[0]))
    x = jnp.stack(x, axis=2).reshape(B, (n + extra) * step, plan.width * fold, C)
    return lax.pad(
        x,
        0.0,
        [
            (0, 0, 0),
            (-plan.top, H + plan.top - x.shape[1], 0),
            (-plan.left, W + plan.left - x.shape[2], 0),
            (0, 0, 0),
        ],
    )


def _fold_kernel(kernel: Array, s: int) -> list[Array]:
    """kernel [kh,kw,C,O] -> its kh rows, each [kw/s, s C, O]."""
    kh, kw, C, features = kernel.shape
    kernel = jnp.pad(kernel, ((0, 0), (0, -kw % s), (0, 0), (0, 0)))
    return list(kernel.reshape(kh, -(-kw // s), s * C, features))


def _unfold_kernel(kernel: Array, shape) -> Array:
    """The transpose of `_fold_kernel`, of the stacked rows."""
    kh, kw, C, features = shape
    return kernel.reshape(kh, -1, C, features)[:, :kw]


def _sum(weights: np.ndarray, terms: Sequence[Array]) -> Array:
    """The linear combination, without the terms of weight 0."""
    parts = [t if w == 1 else float(w) * t for w, t in zip(weights, terms, strict=True) if w]
    return sum(parts[1:], parts[0])


def _conv1d(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """x [N,W,C] * kernel [k,C,O] -> [N,Wo,O]."""
    numbers = ("NHC", "HIO", "NHC")
    return lax.conv_general_dilated(x, kernel, (1,), (padding,), dimension_numbers=numbers)


def _transposed_dot(a: Array, b: Array) -> Array:
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _settle(tree: PyTree) -> PyTree:
    """Identity that makes XLA finish these arrays, once and together."""
    never = lax.optimization_barrier(jnp.int32(0))
    return lax.while_loop(
        lambda c: c[0] < never,
        lambda c: (c[0] + 1, jax.tree.map(lambda a: -a, c[1])),
        (jnp.int32(0), tree),
    )[1]
