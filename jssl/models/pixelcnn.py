"""CPC's context network: a PixelCNN over the grid of patch encodings.

Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272, appendix; there is no official code.
Row i of its output depends on rows 0 ... i of the grid, including row i.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.models.conv import Conv
from jssl.types import Array


class PixelCNN(nn.Module):
    """Masked residual convolutions: float [B,h,w,D] -> float [B,h,w,D] in `dtype`.

    A residual block: 1x1 to `hidden`, ReLU, 1x3 (zero padding left and right), a row of ZEROS on
    top, 2x1 without padding, ReLU, 1x1 back to D. A ReLU follows the last block.

    Attributes:
        blocks: 5 in the paper.
        hidden: 256 in the paper.
        dtype: of the computation; parameters are float32.
    """

    blocks: int = 5
    hidden: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Array) -> Array:
        x = grid.astype(self.dtype)
        options = {"use_bias": True, "dtype": self.dtype}
        none = (0, 0)
        for i in range(self.blocks):
            y = Conv(self.hidden, (1, 1), name=f"block{i}_in", **options)(x)
            y = nn.relu(y)
            y = Conv(self.hidden, (1, 3), padding=(none, (1, 1)), name=f"block{i}_row", **options)(
                y
            )
            y = Conv(self.hidden, (2, 1), padding=((1, 0), none), name=f"block{i}_down", **options)(
                y
            )
            y = nn.relu(y)
            x = x + Conv(x.shape[-1], (1, 1), name=f"block{i}_out", **options)(y)
        return nn.relu(x)
