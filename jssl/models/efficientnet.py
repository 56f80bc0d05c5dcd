"""EfficientNets B0 to B7 and L2, Noisy Student's networks.

Tan and Le, ICML 2019, https://arxiv.org/abs/1905.11946; L2 and stochastic depth as in Xie et al.,
CVPR 2020, https://arxiv.org/abs/1911.04252. Details from the official code,
https://github.com/google-research/noisystudent, efficientnet_builder.py and _model.py:

    stem                  3x3 stride 2, 32 w channels
    stages 1-7            inverted bottlenecks: expand 1x1, depthwise kxk, squeeze and excite, 1x1
    head                  1x1, 1280 w channels, global average

Padding is TensorFlow's SAME: for an even size, a stride of 2 pads only below and right.

The Lite nets, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, have
ReLU6 in place of swish and no squeeze and excite; stem, head, first and last stage are not scaled.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.models.conv import Conv
from jssl.models.depthwise import DepthwiseConv
from jssl.models.noise import row_numbers, stochastic_depth
from jssl.models.norm import norm_of
from jssl.types import Array


class Size(NamedTuple):
    """Scaling of a network; the method uses the resolution, and the dropout of the classifier."""

    width: float
    depth: float
    resolution: int
    dropout: float


class Stage(NamedTuple):
    """Consecutive blocks of B0, of which only the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    features: int


SIZES: dict[str, Size] = {
    "efficientnet_b0": Size(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Size(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Size(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Size(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Size(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": Size(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": Size(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": Size(2.0, 3.1, 600, 0.5),
    "efficientnet_l2": Size(4.3, 5.3, 800, 0.5),
    "efficientnet_lite0": Size(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": Size(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": Size(1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": Size(1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": Size(1.4, 1.8, 300, 0.3),
}
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# The official `small_image_model`, for 32 pixels: these two stages have stride 1, the stem 2.
SMALL_IMAGE_STAGES = (1, 2)
# Keys of a config's `model` section for the official network.
OFFICIAL: dict[str, Any] = {"bn_momentum": 0.99, "bn_epsilon": 1e-3, "stochastic_depth": 0.2}

_SQUEEZE = 0.25
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_STEM, _HEAD = 32, 1280
# Of the classifier: uniform in 1 / sqrt(classes), the fan OUT.
classifier_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


def depthwise_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """N(0, sqrt(2 / (kh kw))) for [kh,kw,1,C]: TensorFlow's is [kh,kw,C,1], of fan out kh kw."""
    return math.sqrt(2 / (shape[0] * shape[1])) * jax.random.normal(key, shape, dtype)


def round_filters(filters: float, width: float) -> int:
    """Returns filters * width, rounded to a multiple of 8, down by at most a tenth.

    Example:
        >>> round_filters(32, 1.1), round_filters(24, 1.4), round_filters(1280, 4.3)
        (32, 32, 5504)
    """
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Returns repeats * depth, rounded up.

    Example:
        >>> round_repeats(3, 1.1), round_repeats(1, 5.3)
        (4, 6)
    """
    return math.ceil(repeats * depth)


def drop_rates(stochastic_depth: float, blocks: int) -> tuple[float, ...]:
    """Returns each block's drop rate, linear in its number: 0 for the first, below the maximum.

    Example:
        >>> drop_rates(0.5, 4)
        (0.0, 0.125, 0.25, 0.375)
    """
    return tuple(stochastic_depth * i / blocks for i in range(blocks))


class EfficientNet(nn.Module):
    """An EfficientNet without its classifier.

    In training, stochastic depth needs a key:
    `apply(variables, x, True, rngs={'stochastic_depth': key})`.

    Attributes:
        width: multiplies every number of channels, rounded by `round_filters`.
        depth: multiplies the blocks of each stage, rounded up.
        lite: a Lite net.
        small_images: for 32 pixels: stages 2 and 3 have stride 1.
        stochastic_depth: maximum of the drop rates, see `drop_rates`; 0: none.
        frozen_blocks: for the last stage of FixRes: -1: none; n: the stem and the first n blocks
            are in evaluation mode and get no gradient.
        stages: of B0.
        remat: compute each block again in the backward pass instead of storing it.
        bn_groups, bn_interleaved, bn_momentum, bn_epsilon, bn_unbiased_running_var: see
            `BatchNorm`.
        axis_name: over which batch statistics are averaged.
        dtype: of the computation; parameters and statistics are float32.
    """

    width: float = 1.0
    depth: float = 1.0
    lite: bool = False
    small_images: bool = False
    stochastic_depth: float = OFFICIAL["stochastic_depth"]
    frozen_blocks: int = -1
    stages: tuple[Stage, ...] = STAGES
    remat: bool = False
    bn_groups: int = 1
    bn_interleaved: bool = False
    bn_momentum: float = OFFICIAL["bn_momentum"]
    bn_epsilon: float = OFFICIAL["bn_epsilon"]
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, train: bool, rows: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C], normalised as in the method.
            train: batch statistics instead of running ones, and stochastic depth.
            rows: int32 [B], the index of each image in the global batch, which determines its
                drops; None: contiguous, by device. Needed if a device's batch is a concatenation,
                as of labelled and unlabelled images.

        Returns:
            float32 [B,D], the global average of the head; and the intermediates by name: `stem`,
            `stage1` ... `stage7` and `head` [B,h,w,c], in `dtype`.

        Raises:
            UserError: in training with stochastic depth and without a key.
        """
        drop = self._drop(x.shape[0], train, rows)
        plan = self._plan()
        rates = drop_rates(self.stochastic_depth, len(plan))
        live = train and self.frozen_blocks < 0
        stem, _, _, head = self.dimensions()
        x = self._conv(stem, 3, 2, "stem_conv")(x.astype(self.dtype))
        x = self._act(self._norm("stem_bn", live)(x))
        block = EfficientNet._block
        if self.remat:  # of (self, x, ...) all but the first two are static
            block = nn.remat(block, static_argnums=(2, 3, 4, 5))
        named = {"stem": x}
        for i, (stage, first) in enumerate(plan):
            if i == self.frozen_blocks:
                x = jax.lax.stop_gradient(x)
            stride = stage.stride if first else 1
            live = train and i >= self.frozen_blocks
            y = block(self, x, stage, stride, f"block{i}", live)
            if y.shape == x.shape and stride == 1:
                y = x + (drop(y, rates[i], i) if live else y)
            x = y
            if i + 1 == len(plan) or plan[i + 1][1]:
                named[f"stage{len(named)}"] = x
        if self.frozen_blocks >= len(plan):
            x = jax.lax.stop_gradient(x)
        x = self._conv(head, 1, 1, "head_conv")(x)
        x = self._act(self._norm("head_bn", train)(x))
        named["head"] = x
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2)), named

    def _plan(self) -> list[tuple[Stage, bool]]:
        """Returns for every block its scaled stage, and whether it is the first of the stage."""
        plan = []
        for i, stage in enumerate(self.stages):
            small = self.small_images and i in SMALL_IMAGE_STAGES
            stage = stage._replace(
                features=round_filters(stage.features, self.width),
                stride=1 if small else stage.stride,
            )
            fixed = self.lite and i in (0, len(self.stages) - 1)
            repeats = stage.repeats if fixed else round_repeats(stage.repeats, self.depth)
            plan += [(stage, repeat == 0) for repeat in range(repeats)]
        return plan

    def dimensions(self) -> tuple[int, int, int, int]:
        """Returns channels of the stem, number of blocks, channels of the last and of the head."""
        stem, head = (c if self.lite else round_filters(c, self.width) for c in (_STEM, _HEAD))
        plan = self._plan()
        return stem, len(plan), plan[-1][0].features, head

    def place(self, block: int) -> tuple[int, int, bool]:
        """Stage and place in it of a block, both from 0, and whether the block expands."""
        plan = self._plan()
        starts = [i for i in range(block + 1) if plan[i][1]]
        return len(starts) - 1, block - starts[-1], plan[block][0].expand != 1

    def _drop(
        self, batch: int, train: bool, rows: Array | None
    ) -> Callable[[Array, float, int], Array]:
        if not train or self.stochastic_depth == 0 or self.is_initializing():
            return lambda y, rate, block: y
        if not self.has_rng("stochastic_depth"):
            raise UserError(
                "EfficientNet in training draws which blocks to drop, and found no key for it. "
                "Expected apply(..., rngs={'stochastic_depth': key}); or switch it off: type "
                "--config.model.stochastic_depth=0."
            )
        key = self.make_rng("stochastic_depth")
        numbers = row_numbers(rows, batch, self.axis_name)
        return lambda y, rate, block: stochastic_depth(
            jax.random.fold_in(key, block), y, rate=rate, rows=numbers
        )

    def _block(self, x: Array, stage: Stage, stride: int, name: str, train: bool) -> Array:
        width = x.shape[-1] * stage.expand
        squeezed = max(1, int(x.shape[-1] * _SQUEEZE))  # of the block's input, not the expanded
        if stage.expand != 1:
            x = self._conv(width, 1, 1, f"{name}_expand")(x)
            x = self._act(self._norm(f"{name}_expand_bn", train)(x))
        x = DepthwiseConv(
            (stage.kernel, stage.kernel),
            strides=stride,
            kernel_init=depthwise_init,
            dtype=self.dtype,
            name=f"{name}_depthwise",
        )(x)
        x = self._act(self._norm(f"{name}_depthwise_bn", train)(x))
        if not self.lite:
            gate = jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True)
            gate = nn.swish(self._conv(squeezed, 1, 1, f"{name}_se_reduce", True)(gate))
            gate = self._conv(width, 1, 1, f"{name}_se_expand", True)(gate)
            x = x * nn.sigmoid(gate)
        x = self._conv(stage.features, 1, 1, f"{name}_project")(x)
        return self._norm(f"{name}_project_bn", train)(x)

    def _act(self, x: Array) -> Array:
        return nn.relu6(x) if self.lite else nn.swish(x)

    def _conv(self, features: int, size: int, stride: int, name: str, use_bias=False) -> Conv:
        return Conv(
            features,
            (size, size),
            strides=stride,
            padding="SAME",
            use_bias=use_bias,
            kernel_init=_KERNEL_INIT,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, name: str, train: bool) -> Callable[[Array], Array]:
        norm = norm_of(self, name)
        return lambda x: norm(x, train)


def make_efficientnet(name: str, *, width: float = 1.0, **switches: Any) -> EfficientNet:
    """Makes an EfficientNet by name.

    Args:
        name: a key of `SIZES`.
        width: multiplies the width of `name`.
        **switches: attributes of `EfficientNet`.

    Example:
        >>> make_efficientnet('efficientnet_l2').depth
        5.3
    """
    size = SIZES[name]
    lite = name.startswith("efficientnet_lite")
    return EfficientNet(size.width * width, size.depth, lite, **switches)
