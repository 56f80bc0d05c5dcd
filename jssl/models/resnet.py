"""Residual networks, with options for the differences between the papers.

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, in the form "v1.5" of every method here: the
stride of a bottleneck is in its 3x3 convolution.

    torchvision        the defaults: symmetric padding, shortcut when needed, He fan-out
    SimCLR (TF)        shortcut='always', pool_padding='same', kernel_init='lecun', last gamma 0
    BYOL (Haiku)       shortcut='always', padding='same', pool_padding='same', kernel_init='haiku'
    MoCo, CMC          torchvision's; CMC keeps the stem's width: stem_width_fixed
    CPC v2             norm='gn1', three groups; ResNet-161 has last_group=(512, 4096)
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.models.conv import Conv
from jssl.models.norm import norm_of
from jssl.models.padding import without_padding
from jssl.models.plain import sobel
from jssl.types import Array

# name -> (bottleneck blocks?, blocks of each group)
DEPTHS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "resnet10": (False, (1, 1, 1, 1)),  # for tests; not in the paper
    # The paper's networks for CIFAR, section 4.2, of 6 n + 2 layers and three groups; there the
    # first has 16 channels (width 0.25) and the stem is 'cifar'.
    "resnet8": (False, (1, 1, 1)),
    "resnet14": (False, (2, 2, 2)),
    "resnet20": (False, (3, 3, 3)),
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet161": (True, (3, 4, 46)),  # CPC v2: resnet101's first three, the third doubled
    "resnet152": (True, (3, 8, 36, 3)),
    "resnet200": (True, (3, 24, 36, 3)),
}
# (bottleneck, output) channels of a nonstandard last group
LAST_GROUPS = {"resnet161": (512, 4096)}
KERNEL_INITS: dict[str, Any] = {
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    "lecun": nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
    # 1/sqrt(fan_in) before the cut at two deviations, which leaves 0.8796 of it
    "haiku": nn.initializers.variance_scaling(0.87962566**2, "fan_in", "truncated_normal"),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "name": tuple(DEPTHS),
    "stem": ("imagenet", "cifar"),
    "padding": ("symmetric", "same"),
    "pool_padding": ("symmetric", "same"),
    "shortcut": ("when_needed", "always"),
    "kernel_init": tuple(KERNEL_INITS),
    "norm": ("bn", "gn1", "ln"),
}
EXPANSION = 4


class ResNet(nn.Module):
    """A residual network without its classifier.

    Attributes:
        bottleneck: bottleneck blocks (50 layers and more), else basic blocks.
        blocks: number of blocks in each group.
        width: multiplies every number of channels.
        stem: 'imagenet' (7x7 stride 2, max-pool) | 'cifar' (3x3 stride 1, no pool).
        stem_width_fixed: the stem has 64 channels for any width.
        padding: of strided convolutions: 'symmetric' as torch | 'same' as TensorFlow.
        pool_padding: of the stem's max-pool, likewise.
        shortcut: projection 'when_needed' (the shape changes) | 'always' (first of each group).
        zero_init_last_gamma: gamma of each block's last BN starts at 0.
        kernel_init: 'he_fan_out' | 'lecun' | 'haiku'.
        last_group: (bottleneck, output) channels of the last group of bottleneck blocks; (): from
            `width`.
        groups: which groups of blocks run, of 1, 2, ...; (): all. Without 1 there is no stem, and
            the input is the map of the group before. Names of parameters do not change, so that a
            detector splits a pre-trained tree.
        last_dilation: of the 3x3 convolutions of the last group, whose stride is then 1.
        remat: compute each block again in the backward pass instead of storing it.
        norm: 'bn' | 'gn1' (one group) | 'ln' (over channels).
        sobel: use `jssl.models.plain.sobel` instead of the image (DeepCluster).
        bn_groups, bn_interleaved, bn_momentum, bn_epsilon, bn_unbiased_running_var: see
            `BatchNorm`.
        axis_name: over which batch statistics are averaged.
        dtype: of the computation; parameters and statistics are float32.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    width: float = 1.0
    stem: str = "imagenet"
    stem_width_fixed: bool = False
    padding: str = "symmetric"
    pool_padding: str = "symmetric"
    shortcut: str = "when_needed"
    zero_init_last_gamma: bool = False
    kernel_init: str = "he_fan_out"
    last_group: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    last_dilation: int = 1
    remat: bool = False
    norm: str = "bn"
    sobel: bool = False
    bn_groups: int = 1
    bn_interleaved: bool = False
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased_running_var: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C], normalised as in the method; with `groups`, a map.
            train: batch statistics instead of running ones.

        Returns:
            float32 [B,D], the global average of the last group that runs; and the intermediates by
            name: `stem` and `block_group1` ... [B,h,w,c], and `last_sum`, the last group's output
            before its ReLU, in `dtype`.
        """
        channels = [round(64 * self.width * 2**g) for g in range(len(self.blocks))]
        intermediates = {}
        if not self.groups or 1 in self.groups:
            x = self._stem(x, channels[0], train)
            intermediates["stem"] = x
        x = x.astype(self.dtype)
        block = ResNet._bottleneck if self.bottleneck else ResNet._basic
        for group, count in enumerate(self.blocks):
            if self.groups and group + 1 not in self.groups:
                continue
            is_last = group == len(self.blocks) - 1
            dilation = self.last_dilation if is_last else 1
            for i in range(count):
                stride = 2 if group > 0 and i == 0 and dilation == 1 else 1
                name = f"block_group{group + 1}_block{i}"
                last = is_last and self.bottleneck and self.last_group
                own = self.last_group if last else (channels[group], EXPANSION * channels[group])
                options = (own, stride, i == 0, name, train, dilation)
                # Of (self, x, *options) all but the first two are static.
                run = nn.remat(block, static_argnums=tuple(range(2, 8))) if self.remat else block
                total = run(self, x, *options)
                x = nn.relu(total)
            intermediates[f"block_group{group + 1}"] = x
        intermediates["last_sum"] = total
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return features, intermediates

    def _stem(self, x: Array, width: int, train: bool) -> Array:
        x = (without_padding(sobel(x)) if self.sobel else x).astype(self.dtype)
        stem_width = 64 if self.stem_width_fixed else width
        if self.stem == "imagenet":
            x = self._conv(stem_width, 7, 2, "conv_init")(x)
        else:
            x = self._conv(stem_width, 3, 1, "conv_init")(x)
        x = nn.relu(self._norm("bn_init", train)(x))
        if self.stem == "imagenet":
            padding = "SAME" if self.pool_padding == "same" else ((1, 1), (1, 1))
            # A window over the picture's border has its maximum inside.
            x = without_padding(nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding))
        return x

    def _conv(self, features: int, size: int, stride: int, name: str, dilation: int = 1) -> Conv:
        # With stride 1 both conventions are equal.
        same = self.padding == "same" and stride > 1
        half = dilation * (size - 1) // 2
        return Conv(
            features,
            (size, size),
            strides=stride,
            padding="SAME" if same else ((half, half), (half, half)),
            dilation=dilation,
            kernel_init=KERNEL_INITS[self.kernel_init],
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, name: str, train: bool, last: bool = False) -> Callable[[Array], Array]:
        init = nn.initializers.zeros if last and self.zero_init_last_gamma else nn.initializers.ones
        if self.norm == "bn":
            norm = norm_of(self, name, scale_init=init)
            return lambda x: norm(x, train)
        options = {"scale_init": init, "dtype": self.dtype, "name": name}
        if self.norm == "gn1":
            return nn.GroupNorm(num_groups=1, epsilon=self.bn_epsilon, **options)
        return nn.LayerNorm(epsilon=self.bn_epsilon, **options)

    def _shortcut(
        self, x: Array, features: int, stride: int, first: bool, name: str, train: bool
    ) -> Array:
        changes = stride != 1 or x.shape[-1] != features
        if not changes and not (first and self.shortcut == "always"):
            return x
        x = self._conv(features, 1, stride, f"{name}_shortcut")(x)
        return self._norm(f"{name}_shortcut_bn", train)(x)

    def _basic(
        self,
        x: Array,
        widths: Sequence[int],
        stride: int,
        first: bool,
        name: str,
        train: bool,
        dilation: int,
    ) -> Array:
        width = widths[0]
        shortcut = self._shortcut(x, width, stride, first, name, train)
        x = self._conv(width, 3, stride, f"{name}_conv0", dilation)(x)
        x = nn.relu(self._norm(f"{name}_bn0", train)(x))
        x = self._conv(width, 3, 1, f"{name}_conv1", dilation)(x)
        x = self._norm(f"{name}_bn1", train, last=True)(x)
        return x + shortcut

    def _bottleneck(
        self,
        x: Array,
        widths: Sequence[int],
        stride: int,
        first: bool,
        name: str,
        train: bool,
        dilation: int,
    ) -> Array:
        width, features = widths
        shortcut = self._shortcut(x, features, stride, first, name, train)
        x = self._conv(width, 1, 1, f"{name}_conv0")(x)
        x = nn.relu(self._norm(f"{name}_bn0", train)(x))
        x = self._conv(width, 3, stride, f"{name}_conv1", dilation)(x)
        x = nn.relu(self._norm(f"{name}_bn1", train)(x))
        x = self._conv(features, 1, 1, f"{name}_conv2")(x)
        x = self._norm(f"{name}_bn2", train, last=True)(x)
        return x + shortcut


def make_resnet(name: str, *, stage_sizes: Sequence[int] = (), **switches: Any) -> ResNet:
    """Builds a residual network by name.

    Args:
        name: a key of `DEPTHS`.
        stage_sizes: blocks of each group instead of those of `name`.
        **switches: attributes of `ResNet`.

    Raises:
        UserError: an unknown name or value.

    Example:
        >>> make_resnet('resnet18', width=0.5).blocks
        (2, 2, 2, 2)
    """
    for switch, choices in CHOICES.items():
        value = name if switch == "name" else switches.get(switch, choices[0])
        if value not in choices:
            raise UserError(f"Unknown model.{switch} '{value}': {nearest(value, choices)}.")
    bottleneck, blocks = DEPTHS[name]
    if name in LAST_GROUPS:
        width = switches.get("width", 1.0)
        switches["last_group"] = tuple(round(width * c) for c in LAST_GROUPS[name])
    return ResNet(bottleneck, tuple(stage_sizes) or blocks, **switches)
