"""Depthwise convolution: one kernel for each channel; fast on a CPU, plain on accelerators.

XLA's CPU backend loops over the C groups of a convolution. A sum over the kernel's taps, each an
elementwise product, takes one pass over the input:

    y[h,w,c] = sum over i, j of  x[s h + i, s w + j, c] k[i,j,c]

As in `conv`, `jax.lax.platform_dependent` chooses at lowering.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jssl.models import _conv_cpu
from jssl.models.conv import LAYOUT, Padding, explicit_padding, is_plain
from jssl.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """2-D convolution of each channel with its own kernel, differentiable once.

    Args:
        x: float [B,H,W,C].
        kernel: [kh,kw,1,C], of x's dtype.
        stride: of height and width.
        padding: ((top, bottom), (left, right)) in pixels.

    Returns:
        [B,h,w,C], of x's dtype.

    Example:
        >>> x = jnp.ones((1, 2, 2, 2))
        >>> kernel = jnp.array([1.0, 10.0]).reshape(1, 1, 1, 2)
        >>> print(depthwise_conv2d(x, kernel, 1, ((0, 0), (0, 0)))[0, 0, 0])
        [ 1. 10.]
    """
    cpu = functools.partial(_taps, stride=stride, padding=padding)
    default = functools.partial(_plain, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding):
    return depthwise_conv2d(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, saved: tuple[Array, Array], dy: Array):
    cpu = functools.partial(_gradients_cpu, stride=stride, padding=padding)
    default = functools.partial(_gradients_plain, stride=stride, padding=padding)
    return lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


depthwise_conv2d.defvjp(_forward, _backward)


def _plain(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _gradients_plain(x: Array, kernel: Array, dy: Array, *, stride: int, padding: Padding):
    plain = functools.partial(_plain, stride=stride, padding=padding)
    return jax.vjp(plain, x, kernel)[1](dy)


def _taps(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    patches = _conv_cpu.taps(x.astype(jnp.float32), kernel.shape, stride, padding)
    weights = kernel.astype(jnp.float32).reshape(-1, 1, 1, 1, x.shape[-1])
    terms = [s * w for s, w in zip(patches, weights, strict=True)]
    return sum(terms[1:], terms[0]).astype(x.dtype)


def _gradients_cpu(x: Array, kernel: Array, dy: Array, *, stride: int, padding: Padding):
    kh, kw, _, C = kernel.shape
    dy32 = dy.astype(jnp.float32)
    # A correlation with the reversed kernel; a stride inserts zeros between the rows of dy.
    spans = [
        (k - 1 - low, size + low - stride * (out - 1) - 1, stride - 1)
        for k, (low, _), size, out in zip(
            (kh, kw), padding, x.shape[1:3], dy.shape[1:3], strict=True
        )
    ]
    dilated = lax.pad(dy32, 0.0, [(0, 0, 0), *spans, (0, 0, 0)])
    none = ((0, 0), (0, 0))
    dx = _taps(dilated, kernel[::-1, ::-1], stride=1, padding=none).astype(x.dtype)
    patches = _conv_cpu.taps(x.astype(jnp.float32), kernel.shape, stride, padding)
    dk = jnp.stack([jnp.sum(s * dy32, axis=(0, 1, 2)) for s in patches])
    return dx, dk.reshape(kernel.shape).astype(kernel.dtype)


class DepthwiseConv(nn.Module):
    """Depthwise convolution without bias: kernel [kh,kw,1,C].

    Attributes:
        kernel_size: (kh, kw).
        strides: of height and width.
        padding: 'SAME', 'VALID' or pairs (low, high).
        kernel_init: of the kernel, float32.
        dtype: of the computation.
    """

    kernel_size: tuple[int, int]
    strides: int = 1
    padding: Any = "SAME"
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,H,W,C] -> [B,h,w,C] in `dtype`."""
        shape = (*self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        pads = explicit_padding(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if is_plain():
            return _plain(x, kernel, stride=self.strides, padding=pads)
        return depthwise_conv2d(x, kernel, self.strides, pads)
