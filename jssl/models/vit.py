"""The Vision Transformer, with options for DeiT, BEiT and MoCo v3.

Dosovitskiy et al., ICLR 2021, https://arxiv.org/abs/2010.11929. Blocks are pre-norm:

    x <- x + drop(gamma1 * attention(norm1(x)))
    x <- x + drop(gamma2 * mlp(norm2(x)))

DeiT:    Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877: a distillation token.
BEiT:    Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254: relative position bias, no bias
         of the keys, LayerScale (gamma), a mask token.
MoCo v3: Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057: fixed sin-cos positions, a
         frozen random patch embedding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.models.attention import attention, dot_rows, gelu
from jssl.models.noise import dropout, row_numbers, stochastic_depth
from jssl.models.position import relative_position_index, sincos_position_embedding, table_length
from jssl.models.vit_init import INITS, Init, kernel_init, patch_inits, token_init
from jssl.types import Array


class Size(NamedTuple):
    """Width of a token, number of blocks, heads of an attention."""

    dim: int
    depth: int
    heads: int


SIZES: dict[str, Size] = {
    "vit_tiny": Size(192, 12, 3),
    "vit_small": Size(384, 12, 6),
    "vit_base": Size(768, 12, 12),
    "vit_large": Size(1024, 24, 16),
}
# Keys of a config's `model` section for each paper's network.
OFFICIAL: dict[str, dict[str, Any]] = {
    "deit": {"stochastic_depth": 0.1},
    "deit_distilled": {"stochastic_depth": 0.1, "distillation_token": True},
    "beit": {
        "vit_init": "beit",
        "position": "none",
        "relative_bias": "shared",
        "layer_scale": 0.1,  # of base; 1e-5 of large
        "qkv_bias": "no_key",
        "mask_token": True,
        "stochastic_depth": 0.1,
    },
    "beit_finetune": {
        "vit_init": "beit_finetune",
        "position": "none",
        "relative_bias": "own",
        "layer_scale": 0.1,
        "qkv_bias": "no_key",
        "pool": "mean",
        "stochastic_depth": 0.1,
    },
    "moco_v3": {"vit_init": "moco_v3", "position": "sincos", "freeze_patches": True, "heads": 12},
}
_CHOICES = {
    "vit_init": INITS,
    "position": ("learned", "sincos", "none"),
    "relative_bias": ("none", "own", "shared"),
    "qkv_bias": ("all", "no_key"),
    "pool": ("class", "mean"),
}
_EPSILON = 1e-6  # of every layer normalisation
_MLP_RATIO = 4
_DROPOUT = 2**31 - 1  # folded into the key of stochastic depth; not a branch's number


Drop = Callable[[Array, int], Array]


def dropped(key: Array | None, x: Array, rate: float, rows: Any, place: int) -> Array:
    """Applies dropout at a numbered place of the network; none without a key."""
    if key is None or rate == 0:
        return x
    key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), place)
    return dropout(key, x, rate=rate, rows=rows)


class Block(nn.Module):
    """Residual attention and MLP: tokens [B,N,D] -> [B,N,D].

    Attributes:
        heads: of the attention.
        number: of the block, from 0.
        drop_rate: of stochastic depth, independently for each branch.
        dropout: rate, after the attention and after both layers of the MLP.
        grid: of the block's own relative position bias; None: no such bias.
        layer_scale, qkv_bias, vit_init, dtype: see `ViT`.
    """

    heads: int
    number: int = 0
    drop_rate: float = 0.0
    dropout: float = 0.0
    grid: tuple[int, int] | None = None
    layer_scale: float = 0.0
    qkv_bias: str = "all"
    vit_init: str = "deit"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, bias: Array | None = None, key: Array | None = None, rows: Any = None
    ) -> Array:
        """Adds `bias` [1,heads,N,N] to the attention logits; drops nothing without `key`."""
        if self.grid is not None:
            bias = bias_of_table(self, self.grid, self.heads)

        def drop(y: Array, place: int) -> Array:
            return dropped(key, y, self.dropout, rows, 3 * self.number + place)

        for i, branch in enumerate((self._attention, self._mlp), start=1):
            y = branch(self._norm(f"norm{i}")(x), bias, drop)
            if self.layer_scale:
                init = nn.initializers.constant(self.layer_scale)
                gamma = self.param(f"gamma{i}", init, (x.shape[-1],), jnp.float32)
                y = y * gamma.astype(y.dtype)[None, None]
            if key is not None:
                branch_key = jax.random.fold_in(key, 2 * self.number + i)
                y = stochastic_depth(branch_key, y, rate=self.drop_rate, rows=rows)
            x = x + y
        return x

    def _attention(self, x: Array, bias: Array | None, drop: Drop) -> Array:
        B, N, D = x.shape
        qkv = self._dense(3 * D, "qkv", use_bias=self.qkv_bias == "all")(x)
        if self.qkv_bias == "no_key":
            q, v = (
                self.param(name, nn.initializers.zeros, (D,), jnp.float32)
                for name in ("q_bias", "v_bias")
            )
            qkv_bias = jnp.concatenate([q, jnp.zeros_like(q), v])
            qkv = qkv + qkv_bias.astype(qkv.dtype)[None, None]
        y = attention(qkv.reshape(B, N, 3, self.heads, D // self.heads), bias)
        return drop(self._dense(D, "proj")(y.reshape(B, N, D)), 0)

    def _mlp(self, x: Array, _: Any, drop: Drop) -> Array:
        y = gelu(self._dense(_MLP_RATIO * x.shape[-1], "fc1")(x))
        return drop(self._dense(x.shape[-1], "fc2")(drop(y, 1)), 2)

    def _dense(self, features: int, name: str, use_bias: bool = True) -> nn.Dense:
        init = kernel_init(self.vit_init, name, self.number)
        return nn.Dense(
            features,
            use_bias,
            kernel_init=init,
            dtype=self.dtype,
            dot_general=dot_rows,
            name=name,
        )

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(_EPSILON, dtype=self.dtype, name=name)


def bias_of_table(module: nn.Module, grid: tuple[int, int], heads: int) -> Array:
    """Returns [1,heads,1+h*w,1+h*w] from `module`'s parameter 'relative_table', initially 0."""
    shape = (table_length(grid), heads)
    table = module.param("relative_table", nn.initializers.zeros, shape, jnp.float32)
    return jnp.moveaxis(table[relative_position_index(grid)], -1, 0)[None]


class ViT(nn.Module):
    """A Vision Transformer without its classifier.

    With learned or relative positions the parameters depend on the resolution:
    `jssl.models.position.at_resolution` resizes them.

    In training, stochastic depth needs a key:
    `apply(variables, x, True, rngs={'stochastic_depth': key})`.

    Attributes:
        dim, depth, heads: see `Size`.
        patch_size: in pixels; 16, or 4 and 8 for small images.
        pool: 'class': features are the class token after the last norm; 'mean': the mean of the
            patch tokens, followed by a norm (`fc_norm`) instead.
        position: 'learned' | 'sincos' (fixed) | 'none'.
        relative_bias: of the attention: 'none' | 'own' (a table a block) | 'shared' (one table).
        layer_scale: initial gamma; 0: no gamma.
        qkv_bias: 'all' | 'no_key' (BEiT).
        distillation_token: a second token after the class token.
        mask_token: learn a mask token, used where `mask` of a call is True.
        freeze_patches: no gradient for the patch embedding. Disable its weight decay too.
        stochastic_depth: drop rate of the last block, linear from 0 at the first.
        dropout: rate, after the positions, each attention and each layer of the MLPs (timm's
            drop_rate); uses the key of stochastic depth.
        vit_init: initialisers: 'deit' | 'beit' | 'beit_finetune' | 'moco_v3'.
        remat: recompute each block in the backward pass, for less memory on TPU and GPU; saves
            none on XLA's CPU backend, which schedules the recomputation too early.
        axis_name: the batch axis, which numbers the images for stochastic depth.
        dtype: of the computation; parameters are float32.
    """

    dim: int
    depth: int
    heads: int
    patch_size: int = 16
    pool: str = "class"
    position: str = "learned"
    relative_bias: str = "none"
    layer_scale: float = 0.0
    qkv_bias: str = "all"
    distillation_token: bool = False
    mask_token: bool = False
    freeze_patches: bool = False
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    vit_init: str = "deit"
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, train: bool, rows: Array | None = None, mask: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Images to features.

        Args:
            x: float [B,H,W,C], normalised as in the method.
            train: apply stochastic depth and dropout.
            rows: int32 [B], the index of each image in the global batch, which determines its
                drops; None: contiguous, by device.
            mask: bool [B,h*w] or [B,h,w]: the patches to replace by the mask token.

        Returns:
            float32 [B,D], see `pool`; and the intermediates by name: `block0`, `block1` ...
            [B,N,D], all tokens after each block; `tokens` [B,h*w,D], the patch tokens after the
            last norm (with pool 'mean', before it); `class_token` float32 [B,D], and optionally
            `distillation_token`.
        """
        self._check(x, mask)
        B = x.shape[0]
        x, grid = self._patches(x)
        init = token_init(self.vit_init)
        if self.mask_token:
            token = self.param("mask_token", init, (1, 1, self.dim), jnp.float32)
            if mask is not None:
                x = jnp.where(mask.reshape(B, -1, 1), token.astype(x.dtype), x)
        names = ("cls_token", "dist_token")[: 1 + self.distillation_token]
        extra = [self.param(name, init, (1, 1, self.dim), jnp.float32) for name in names]
        extra = [jnp.broadcast_to(v.astype(x.dtype), (B, 1, self.dim)) for v in extra]
        x = jnp.concatenate([*extra, x], axis=1)
        x = self._add_positions(x, grid, init)

        bias = None
        if self.relative_bias == "shared":
            bias = bias_of_table(self, grid, self.heads)
        key, rows = self._drop_key(B, train, rows)
        x = dropped(key, x, self.dropout, rows, 3 * self.depth)
        named = {}
        make = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            block = make(
                heads=self.heads,
                number=i,
                drop_rate=self.stochastic_depth * i / max(self.depth - 1, 1),
                dropout=self.dropout,
                grid=grid if self.relative_bias == "own" else None,
                layer_scale=self.layer_scale,
                qkv_bias=self.qkv_bias,
                vit_init=self.vit_init,
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = named[f"block{i}"] = block(x, bias, key, rows)
        return self._features(x, names, named)

    def _patches(self, x: Array) -> tuple[Array, tuple[int, int]]:
        """Embeds patches: a convolution with stride = kernel size, as one matrix product."""
        p, (B, H, W, C) = self.patch_size, x.shape
        inits = patch_inits(self.vit_init, p * p * C, self.dim)
        kernel, bias = PatchEmbed((p, p, C, self.dim), inits, name="patch_embed")()
        if self.freeze_patches:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        x = x.astype(self.dtype).reshape(B, H // p, p, W // p, p, C)
        x = jnp.swapaxes(x, 2, 3).reshape(B, -1, p * p * C)
        x = x @ kernel.astype(self.dtype).reshape(-1, self.dim)
        return x + bias.astype(self.dtype)[None, None], (H // p, W // p)

    def _add_positions(self, x: Array, grid: tuple[int, int], init: Init) -> Array:
        if self.position == "none":
            return x
        if self.position == "learned":
            shape = (1, *x.shape[1:])
            return x + self.param("pos_embed", init, shape, jnp.float32).astype(x.dtype)
        table = sincos_position_embedding(grid, self.dim)
        fixed = jnp.pad(table, ((x.shape[1] - len(table), 0), (0, 0)))  # 0 for the class token
        return x + fixed.astype(x.dtype)[None]

    def _features(
        self, x: Array, names: tuple[str, ...], named: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        last = nn.LayerNorm(
            _EPSILON, dtype=self.dtype, name="norm" if self.pool == "class" else "fc_norm"
        )
        if self.pool == "class":
            x = last(x)
        tokens = x[:, len(names) :]
        named = {**named, "tokens": tokens, "class_token": x[:, 0].astype(jnp.float32)}
        if self.distillation_token:
            named["distillation_token"] = x[:, 1].astype(jnp.float32)
        if self.pool == "class":
            return named["class_token"], named
        mean = jnp.mean(tokens.astype(jnp.float32), axis=1)
        return last(mean).astype(jnp.float32), named

    def _drop_key(self, B: int, train: bool, rows: Array | None) -> tuple[Any, Any]:
        rates = (self.stochastic_depth, self.dropout)
        if not train or not any(rates) or self.is_initializing():
            return None, None
        if not self.has_rng("stochastic_depth"):
            raise UserError(
                "A ViT in training draws which branches to drop, and found no key for it. "
                "Expected apply(..., rngs={'stochastic_depth': key}); or switch it off: type "
                "--config.model.stochastic_depth=0 --config.model.dropout=0."
            )
        return self.make_rng("stochastic_depth"), row_numbers(rows, B, self.axis_name)

    def _check(self, x: Array, mask: Array | None) -> None:
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(
                    f"Unknown model.{key} '{getattr(self, key)}': "
                    f"{nearest(getattr(self, key), choices)}."
                )
        if self.dim % self.heads:
            raise UserError(
                f"A ViT of width {self.dim} with {self.heads} heads: expected a width divisible "
                "by the heads. Type --config.model.heads=N."
            )
        if x.shape[1] % self.patch_size or x.shape[2] % self.patch_size:
            raise UserError(
                f"Images of {x.shape[1]}x{x.shape[2]} pixels do not fall into patches of "
                f"{self.patch_size}. Type --config.augment.size=N with a multiple, or "
                "--config.model.patch_size=N."
            )
        if self.relative_bias != "none" and self.distillation_token:
            raise UserError(
                "A relative position bias has entries for one extra token, the class token. "
                "Expected model.relative_bias='none' with a distillation token."
            )
        if mask is not None and not self.mask_token:
            raise UserError("A mask needs a mask token: type --config.model.mask_token=True.")


class PatchEmbed(nn.Module):
    """The parameters of the patch embedding: kernel [p,p,C,D] and bias [D]."""

    shape: tuple[int, int, int, int]
    inits: tuple[Init, Init]

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", self.inits[0], self.shape, jnp.float32)
        return kernel, self.param("bias", self.inits[1], self.shape[-1:], jnp.float32)


def make_vit(
    name: str, *, width: float = 1.0, depth: int = 0, heads: int = 0, **switches: Any
) -> ViT:
    """Builds a ViT by name.

    Args:
        name: a key of `SIZES`.
        width: multiplies the width of `name`.
        depth, heads: of the ViT; 0: those of `name`.
        **switches: attributes of `ViT`.

    Example:
        >>> make_vit('vit_small', patch_size=8).dim, make_vit('vit_tiny', depth=4).depth
        (384, 4)
    """
    size = SIZES[name]
    return ViT(round(size.dim * width), depth or size.depth, heads or size.heads, **switches)
