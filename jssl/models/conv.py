"""Convolution with fast gradients on a CPU, and the plain operation on accelerators.

On the CPU, XLA's weight gradient of a convolution is much slower than matrix products: see
`_conv_cpu` for 1x1 and 3x3 kernels, and `_weight_gradient`, one product for each tap, for the
others. `jax.lax.platform_dependent` chooses at lowering: for TPU and GPU only
`lax.conv_general_dilated` and its own derivatives remain.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jssl.models import _conv_cpu
from jssl.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
# torch's default for convolutions and linear layers: uniform in 1 / sqrt(fan in).
TORCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
LAYOUT = ("NHWC", "HWIO", "NHWC")


_plain_only: contextvars.ContextVar[bool] = contextvars.ContextVar("plain_only", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Traces networks with the plain convolution on every platform: one operation each.

    Example:
        >>> def f(x):
        ...     return Conv(1, (3, 3)).init_with_output(jax.random.key(0), x)[0]
        >>> with plain_convolutions():
        ...     graph = str(jax.make_jaxpr(f)(jnp.ones((1, 4, 4, 1))))
        >>> 'conv_general_dilated' in graph, 'platform_index' in graph
        (True, False)
    """
    token = _plain_only.set(True)
    try:
        yield
    finally:
        _plain_only.reset(token)


def is_plain() -> bool:
    """Whether `plain_convolutions` is in effect."""
    return _plain_only.get()


def explicit_padding(
    padding: str | Sequence[tuple[int, int]],
    size: Sequence[int],
    kernel: Sequence[int],
    stride: int,
) -> Padding:
    """Converts 'SAME', 'VALID' or pairs to pairs (low, high) for height and width.

    Example:
        >>> explicit_padding('SAME', (224, 224), (7, 7), 2)
        ((2, 3), (2, 3))
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, kernel, (stride, stride), padding)
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(x: Array, kernel: Array, stride: int, padding: Padding, dilation: int = 1) -> Array:
    """2-D convolution (cross-correlation), differentiable once.

    Args:
        x: float [B,H,W,C].
        kernel: [kh,kw,C,features], of x's dtype.
        stride: of height and width.
        padding: ((top, bottom), (left, right)) in pixels.
        dilation: pixels between neighbouring taps of the kernel.

    Returns:
        [B,h,w,features], of x's dtype.

    Example:
        >>> x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
        >>> print(conv2d(x, kernel, 2, ((1, 1), (1, 1)))[0, :, :, 0])
        [[4. 6.]
         [6. 9.]]
    """
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    cpu = functools.partial(_forward_cpu, **options)
    default = functools.partial(_plain, **options)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding, dilation: int):
    return conv2d(x, kernel, stride, padding, dilation), (x, kernel)


def _backward(stride: int, padding: Padding, dilation: int, saved: tuple[Array, Array], dy: Array):
    x, kernel = saved
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    cpu = functools.partial(_gradients_cpu, **options)
    default = functools.partial(_gradients_plain, **options)
    return lax.platform_dependent(x, kernel, dy, cpu=cpu, default=default)


conv2d.defvjp(_forward, _backward)


def _plain(x: Array, kernel: Array, *, stride: int, padding: Padding, dilation: int = 1) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
    )


def _gradients_plain(x: Array, kernel: Array, dy: Array, **options: Any):
    return jax.vjp(functools.partial(_plain, **options), x, kernel)[1](dy)


def _forward_cpu(x: Array, kernel: Array, *, stride: int, padding: Padding, dilation: int) -> Array:
    if dilation == 1 and _conv_cpu.supported(x, kernel, (stride, stride), padding):
        return _conv_cpu.forward(x, kernel, (stride, stride), padding)
    return _plain(x, kernel, stride=stride, padding=padding, dilation=dilation)


def _gradients_cpu(
    x: Array, kernel: Array, dy: Array, *, stride: int, padding: Padding, dilation: int
):
    if dilation == 1 and _conv_cpu.supported(x, kernel, (stride, stride), padding):
        return _conv_cpu.backward(x, kernel, dy, (stride, stride), padding)
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    (dx,) = jax.vjp(lambda x: _plain(x, kernel, **options), x)[1](dy)
    dk = _weight_gradient(x, dy, kernel.shape, stride, padding, dilation)
    return dx, dk.astype(kernel.dtype)


def _weight_gradient(
    x: Array, dy: Array, shape: tuple[int, ...], stride: int, padding: Padding, dilation: int
) -> Array:
    """Sums x at each tap times dy over examples and positions, as matrix products.

    Few channels: one product of the concatenated taps; many: one product a tap.
    """
    C, features = shape[2:]
    dy = dy.reshape(-1, features)
    if C < 16:
        patches = [_conv_cpu.columns(x, shape, stride, padding, dilation)]
    else:
        patches = _conv_cpu.taps(x, shape, stride, padding, dilation)
    products = [_conv_cpu.transposed_dot(s.reshape(-1, s.shape[-1]), dy) for s in patches]
    return jnp.stack(products).reshape(shape)


class Conv(nn.Module):
    """Convolution with the parameters of `nn.Conv`: kernel [kh,kw,C,features], bias [features].

    Attributes:
        features: number of output channels.
        kernel_size: (kh, kw).
        strides: of height and width.
        padding: 'SAME', 'VALID' or pairs (low, high); pairs with a dilation.
        dilation: pixels between neighbouring taps.
        use_bias: add a bias, which starts at 0.
        kernel_init: of the kernel, float32.
        dtype: of the computation.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: Any = "SAME"
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,H,W,C] -> [B,h,w,features] in `dtype`."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        pads = explicit_padding(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if is_plain():
            y = _plain(x, kernel, stride=self.strides, padding=pads, dilation=self.dilation)
        else:
            y = conv2d(x, kernel, self.strides, pads, self.dilation)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
