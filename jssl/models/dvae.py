"""The discrete VAE: an encoder from pictures to a grid of codes, and a decoder.

Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, appendix A; the architecture is that of
https://github.com/openai/DALL-E, dall_e/encoder.py and decoder.py. Both are residual networks of
four groups, with max-pooling and nearest-neighbour upsampling between the groups, so that a token
covers 8 x 8 pixels. With L blocks in total, each residual branch is multiplied by 1 / L^2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.models.conv import Conv
from jssl.types import Array

# N(0, 1 / (inputs k^2)), not truncated
_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_EPSILON = 0.1  # logit_laplace_eps of the official code


def map_pixels(x: Array) -> Array:
    """Maps [0, 1] to [0.1, 0.9], so that the logit is finite: 0.8 x + 0.1.

    Example:
        >>> print(map_pixels(jnp.array([0.0, 0.5])))
        [0.1 0.5]
    """
    return (1 - 2 * _EPSILON) * x + _EPSILON


def unmap_pixels(x: Array) -> Array:
    """Inverts `map_pixels`, clipped to [0, 1].

    Example:
        >>> print(unmap_pixels(jnp.array([0.05, 0.5])).round(4))
        [0.  0.5]
    """
    return jnp.clip((x - _EPSILON) / (1 - 2 * _EPSILON), 0.0, 1.0)


def gumbel_softmax(key: Array, logits: Array, *, temperature: Array | float) -> Array:
    """Draws a relaxed sample of a categorical distribution: softmax((logits + g) / temperature).

    g = -ln(-ln u) with u uniform in (0, 1). As the temperature goes to 0 it becomes a one-hot
    sample of softmax(logits). No straight-through estimator.

    Args:
        key: typed PRNG key [].
        logits: float [...,K].
        temperature: > 0.

    Returns:
        float32 [...,K], each row a distribution.

    Example:
        >>> z = gumbel_softmax(jax.random.key(0), jnp.zeros((2, 3)), temperature=1e-3)
        >>> print(z.max(axis=1).round(3))
        [1. 1.]

    Reference: Jang et al., ICLR 2017, https://arxiv.org/abs/1611.01144, equation 2; Maddison et
        al., ICLR 2017, https://arxiv.org/abs/1611.00712.
    """
    noise = jax.random.gumbel(key, logits.shape, jnp.float32)
    return jax.nn.softmax((logits.astype(jnp.float32) + noise) / temperature, axis=-1)


class _Block(nn.Module):
    """x + gain * (four convolutions, each after a ReLU): [B,h,w,C] -> [B,h,w,features]."""

    features: int
    kernels: tuple[int, int, int, int]
    gain: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y, hidden = x, self.features // 4
        for i, (size, width) in enumerate(
            zip(self.kernels, (hidden, hidden, hidden, self.features), strict=True), start=1
        ):
            y = _conv(width, size, f"conv_{i}", self.dtype)(nn.relu(y))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, "skip", self.dtype)(x)
        return x + self.gain * y


def _conv(features: int, size: int, name: str, dtype: Any) -> Conv:
    return Conv(features, (size, size), use_bias=True, kernel_init=_INIT, dtype=dtype, name=name)


class Encoder(nn.Module):
    """The encoder from pictures to logits of codes.

    Attributes:
        vocabulary: K.
        hidden: width of the first group; doubled in each following one.
        groups: number of groups, with max-pooling between them: f = 2^(groups - 1).
        blocks: of a group.
        dtype: of the computation; the last convolution is float32 as in the official code.
    """

    vocabulary: int = 8192
    hidden: int = 256
    groups: int = 4
    blocks: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """float [B,H,W,3] from `map_pixels` -> logits float32 [B,H/f,W/f,K], last features."""
        f = 2 ** (self.groups - 1)
        if x.shape[1] % f or x.shape[2] % f:
            raise UserError(
                f"A tokenizer of {self.groups} groups halves pictures {self.groups - 1} times: "
                f"expected sides that are multiples of {f}, found {x.shape[1]}x{x.shape[2]}. Type "
                f"--config.augment.size=N or --config.dvae.groups=N."
            )
        x = _conv(self.hidden, 7, "input", self.dtype)(x)
        for group in range(self.groups):
            for block in range(self.blocks):
                x = _Block(
                    self.hidden * 2**group,
                    (3, 3, 3, 1),
                    1 / (self.groups * self.blocks) ** 2,
                    self.dtype,
                    name=f"group_{group + 1}_block_{block + 1}",
                )(x)
            if group < self.groups - 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(x).astype(jnp.float32)
        return _conv(self.vocabulary, 1, "output", jnp.float32)(x), x


class Decoder(nn.Module):
    """The decoder from codes, or mixtures of them, to pictures.

    Attributes:
        channels: of the output: 6, location and ln of the scale of each colour, or 3.
        initial: width after the first convolution, 128 in the official code.
        hidden, groups, blocks: as in the `Encoder`, in reverse order.
        dtype: of the computation; the first convolution is float32.
    """

    channels: int = 6
    initial: int = 128
    hidden: int = 256
    groups: int = 4
    blocks: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """float [B,h,w,K], rows that sum to 1 -> float32 [B,f h,f w,channels]."""
        x = _conv(self.initial, 1, "input", jnp.float32)(z)
        for group in range(self.groups):
            for block in range(self.blocks):
                x = _Block(
                    self.hidden * 2 ** (self.groups - 1 - group),
                    (1, 3, 3, 3),
                    1 / (self.groups * self.blocks) ** 2,
                    self.dtype,
                    name=f"group_{group + 1}_block_{block + 1}",
                )(x)
            if group < self.groups - 1:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return _conv(self.channels, 1, "output", self.dtype)(nn.relu(x)).astype(jnp.float32)
