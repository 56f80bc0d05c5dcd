"""Heads on an encoder: the projector of every method, and the linear classifier."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.models.norm import BatchNorm
from jssl.types import Array

LAST_BN = ("none", "scale_only", "full", "plain")


class Projector(nn.Module):
    """A multi-layer perceptron: dense, batch normalisation, ReLU for each hidden layer, dense.

    SimCLR: no biases, N(0, 0.01), last BN 'scale_only'. MoCo v2: `hidden_bn=False`, biases, last
    BN 'none'. MoCo v3: no biases, last BN 'plain'. BYOL: biases of hidden layers only, last 'none'.

    Attributes:
        hidden_dims: width of each hidden layer; 0 means the input's width.
        out_dim: width of the output.
        use_bias: dense layers of hidden layers have biases.
        last_bias: the last dense layer has a bias; None: as `use_bias`.
        hidden_bn: batch normalisation after each hidden layer.
        last_bn: after the last layer: 'none' | 'scale_only' (gamma, no beta) | 'full' | 'plain'
            (neither gamma nor beta).
        kernel_init: of the dense kernels.
        axis_name, groups, momentum, epsilon: of batch normalisation.
        dtype: of the computation; the result is float32.
    """

    hidden_dims: tuple[int, ...]
    out_dim: int
    use_bias: bool = False
    last_bias: bool | None = None
    hidden_bn: bool = True
    last_bn: str = "scale_only"
    kernel_init: Any = nn.initializers.normal(0.01)
    axis_name: str | None = None
    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B,D] -> float32 [B,out_dim]."""
        if self.last_bn not in LAST_BN:
            raise UserError(f"Unknown last_bn '{self.last_bn}': {nearest(self.last_bn, LAST_BN)}.")

        def norm(name: str, **options: Any) -> BatchNorm:
            return BatchNorm(
                axis_name=self.axis_name,
                groups=self.groups,
                momentum=self.momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=name,
                **options,
            )

        def dense(width: int, use_bias: bool, name: str) -> nn.Dense:
            return nn.Dense(
                width,
                use_bias=use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )

        for i, width in enumerate(self.hidden_dims):
            x = dense(width or x.shape[-1], self.use_bias, f"dense{i}")(x)
            if self.hidden_bn:
                x = norm(f"bn{i}")(x, train)
            x = nn.relu(x)
        last = len(self.hidden_dims)
        last_bias = self.use_bias if self.last_bias is None else self.last_bias
        x = dense(self.out_dim, last_bias, f"dense{last}")(x)
        if self.last_bn != "none":
            options = {
                "scale_only": {"use_bias": False},
                "full": {},
                "plain": {"use_scale": False, "use_bias": False},
            }[self.last_bn]
            x = norm(f"bn{last}", **options)(x, train)
        return x.astype(jnp.float32)


class Linear(nn.Module):
    """A linear classifier with bias, float32: [B,D] -> logits [B,num_classes].

    Attributes:
        num_classes: K.
        zero_init: start from zeros (SimCLR's fine-tuning), else from `kernel_init`.
        kernel_init: of the kernel; EfficientNet's is `efficientnet.classifier_init`.
    """

    num_classes: int
    zero_init: bool = False
    kernel_init: Any = nn.initializers.normal(0.01)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.zeros if self.zero_init else self.kernel_init
        kernel = self.param("kernel", init, (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x.astype(jnp.float32) @ kernel + bias[None]
