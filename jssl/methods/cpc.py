"""CPC v2: data-efficient image recognition with contrastive predictive coding.

Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272; there is no official code.

    z_rc = mean over the pixels of f(patch rc)       patches overlap, each augmented by itself
    c = PixelCNN(z)                                  row i sees rows 0 ... i
    p_rc = W_k c_rc,   t = V z                       1x1 convolutions to 64 dimensions
    loss = -log softmax over all t of (0.1 p_rc . t) at t_(r+k)c       summed over the offsets k

With `target_dim=0` and `scale=1.0` it is the raw form of the paper's equation 2, exp(z_hat^T z)
with z_hat = W_k c: the targets are the latents themselves, and nothing is projected or scaled.

The loss is the mean over four directions, made by flipping and turning the grid of z, each with its
own PixelCNN, W and V. The nearest k is the first whose patch shares no pixel, ceil(patch / stride).
The encoder has no BN, which would tell patches of each other: GroupNorm with one group, which is
layer norm over channels and pixels with an affine map for each channel, at any resolution.

Negatives are all positions of all images of the GLOBAL batch, gathered, as long as
`negative_groups` is 1; the paper does not say whether its own are. With G groups each has its own:
32 is one TPU core each. Groups belong to the batch, not to the devices that hold it, so that a
config means the same anywhere.

`embed` uses a running average of the parameters, its momentum min(m, (1 + t) / (10 + t)).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jssl import augment, losses, models
from jssl.errors import UserError
from jssl.methods._common import (
    apply_gradients,
    check_make,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import MethodSpec
from jssl.models.conv import Conv
from jssl.models.pixelcnn import PixelCNN
from jssl.parallel.collectives import global_index, mean_value_and_grad, pmean
from jssl.settings import COUNT, TEXT, Setting, below_one, count, each, fraction, natural, positive
from jssl.state.ema import ema
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState


@flax.struct.dataclass
class State(TrainState):
    """CPC's state.

    Attributes:
        average: float32, the running (Polyak) average of `params`, which `embed` uses.
    """

    average: PyTree


DIRECTIONS = ("down", "up", "right", "left")

SETTINGS: dict[str, Setting] = {
    "patch": count(80),  # pixels
    "stride": count(36),
    "offsets": Setting((), each(COUNT)),  # rows ahead; (): the first that shares no pixel
    "directions": Setting(DIRECTIONS, each(TEXT, least=1)),
    "context_blocks": natural(5),
    "context_hidden": count(256),
    "target_dim": natural(64),  # 0: the targets are the latents, V = 1, and W_k has no bias
    "scale": positive(0.1),  # of the predictions
    "negative_groups": count(1),  # 1: the whole global batch
    "average_momentum": below_one(0.9999),
    "drop_p": fraction(1.0),  # these: of every patch, see jssl/augment/_patches.py
    "operations": natural(2),
    "warp_p": fraction(0.2),
    "jitter_p": fraction(0.8),
    "gray_p": fraction(0.25),
}


def turn(grid: Array, direction: str) -> Array:
    """The grid [B,h,w,...] turned so that `direction` becomes down, row 0 where it comes from.

    Example:
        >>> print(turn(jnp.arange(4).reshape(1, 2, 2), 'left')[0])
        [[1 3]
         [0 2]]
    """
    if direction in ("up", "left"):
        grid = jnp.flip(grid, axis=1 if direction == "up" else 2)
    return grid.swapaxes(1, 2) if direction in ("left", "right") else grid


class Predictor(nn.Module):
    """One direction, downwards: grid [B,h,w,D] -> ({offset: [B,h-offset,w,d]}, targets [B,h,w,d]).

    Attributes:
        offsets: rows ahead, each with its own 1x1 convolution.
        blocks, hidden: of the PixelCNN.
        dim: d; 0: targets are the latents, D-dimensional, and the predictions have no bias.
        dtype: of the computation.
    """

    offsets: tuple[int, ...]
    blocks: int = 5
    hidden: int = 256
    dim: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Array) -> tuple[dict[int, Array], Array]:
        targets, dim = grid, self.dim or grid.shape[-1]
        if self.dim:
            # Of the latents, not of the context. A bias would shift all logits of a row alike.
            targets = Conv(dim, (1, 1), dtype=self.dtype, name="target")(grid)
        context = PixelCNN(self.blocks, self.hidden, self.dtype, name="context")(grid)
        predictions = {
            k: Conv(dim, (1, 1), use_bias=bool(self.dim), dtype=self.dtype, name=f"predict{k}")(
                context[:, : grid.shape[1] - k]
            )
            for k in self.offsets
        }
        return predictions, targets


class Net(nn.Module):
    """Patches [B,h,w,p,p,3] -> (predictions and targets of each direction, grid [B,h,w,D])."""

    encoder: nn.Module
    predictors: dict[str, Predictor]

    def __call__(self, patches: Array, train: bool):
        grid = self.encode(patches, train)
        return {d: f(turn(grid, d)) for d, f in self.predictors.items()}, grid

    def encode(self, patches: Array, train: bool = False) -> Array:
        """The latents float32 [B,h,w,D]: the patches are a batch to the encoder."""
        B, h, w = patches.shape[:3]
        z, _ = self.encoder(patches.reshape(B * h * w, *patches.shape[3:]), train=train)
        return z.reshape(B, h, w, -1)

    def whole(self, images: Array, train: bool = False) -> Array:
        """The encoder over whole images [B,H,W,3]: its last group's map, float32 [B,h',w',D]."""
        _, named = self.encoder(images, train=train)
        groups = [k for k in named if k.startswith("block_group")]
        if not groups:
            raise UserError(
                "The encoder has no map of whole pictures: expected a ResNet, found the outputs "
                f"{sorted(named)}."
            )
        last = max(groups, key=lambda k: int(k[11:]))
        return named[last].astype(jnp.float32)


def offsets_of(config: Any) -> tuple[int, ...]:
    """The predicted offsets: those of the config, or the first whose patches do not overlap.

    Raises:
        UserError: patches that do not fit the image, or offsets that do not fit the grid.
    """
    s = config.cpc
    rows = augment.patch_grid(config.augment.size, s.patch, s.stride)
    offsets = tuple(s.offsets) or (math.ceil(s.patch / s.stride),)
    bad = [k for k in offsets if not 1 <= k < rows]
    if bad or len(set(offsets)) < len(offsets):
        raise UserError(
            f"config.cpc predicts {offsets} rows ahead in a grid of {rows}x{rows} patches: "
            f"expected different offsets from 1 to {rows - 1}. Type --config.cpc.offsets='(N,)', a "
            "smaller --config.cpc.stride or a larger --config.augment.size."
        )
    return offsets


def make_net(config: Any, axis_name: str | None = None) -> Net:
    """The network of a config.

    Raises:
        UserError: what cannot work in `config.cpc` and `config.model`.
    """
    s, dtype = config.cpc, jnp.dtype(config.dtype)
    if config.model.norm == "bn":
        raise UserError(
            "CPC's encoder must not have BN, through which patches see each other; found "
            "config.model.norm='bn'. Type --config.model.norm=gn1."
        )
    unknown = [d for d in s.directions if d not in DIRECTIONS]
    if unknown or not s.directions:
        raise UserError(
            f"config.cpc.directions is {tuple(s.directions)}: expected some of {DIRECTIONS}."
        )
    predictor = Predictor(
        offsets_of(config), s.context_blocks, s.context_hidden, s.target_dim, dtype
    )
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    return Net(encoder, {d: predictor.clone() for d in s.directions})


def whole_map(config: Any) -> Callable[[PyTree, Array], Array]:
    """The encoder over whole images: `(params, images) -> float32 [B,h',w',D]`, differentiable.

    For the label-efficient classifier, see `jssl.evaluate.probes.label_efficient`; `params` is
    `state.average`, of which it reads 'encoder' alone.
    """
    net, (_, prepare) = make_net(config), input_functions(config)

    def whole(params: PyTree, images: Array) -> Array:
        features: Any = net.apply({"params": params}, prepare(images), method=Net.whole)
        return features

    return whole


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes CPC's pure functions.

    `embed` cuts the images without augmentation and gives the mean of the grid [B,D], and the
    grid itself as intermediate `grid` [B,h,w,D].

    Args:
        config: from `jssl.config.base('cpc', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (sum over the offsets, mean over directions; ln(N h w)
        for each offset by chance), `contrastive_top1` in [0, 1] and `grad_norm` before clipping.

    Raises:
        UserError: what cannot work in `config.cpc`, `config.model` and `config.augment.size`.
    """
    check_make("cpc", config, lengths, SETTINGS)
    s = config.cpc
    net = make_net(config, axis_name)
    views, prepare = input_functions(config)
    groups = s.negative_groups
    if groups < 1 or config.batch_size % groups:
        raise UserError(
            f"config.cpc.negative_groups is {groups}: expected 1 or a divisor of the batch size "
            f"{config.batch_size}. Type --config.cpc.negative_groups=1."
        )
    patch_options = {k: s[k] for k in ("drop_p", "operations", "warp_p", "jitter_p", "gray_p")}

    def cut(images: Array) -> Array:
        return augment.extract_patches(images, patch=s.patch, stride=s.stride)

    def init(key: Array, batch: Batch) -> State:
        images = views(key, batch["image"][:1], jnp.int32(0))[0]
        variables = make_net(config).init(key, cut(prepare(images)), train=True)
        average = jax.tree.map(jnp.copy, variables["params"])  # both are donated
        return first_state(State, key, variables, tx, average=average)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        first = global_index(len(batch["image"]), axis_name)
        crop_key, patch_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        patches = cut(views(crop_key, batch["image"], first)[0])
        patches = prepare(augment.augment_patches(patch_key, patches, first, **patch_options))

        def loss_fn(params: PyTree) -> tuple[Array, Array]:
            predictions, _ = net.apply({"params": params}, patches, train=True)
            return losses.directions_info_nce(
                predictions, scale=s.scale, groups=groups, axis_name=axis_name
            )

        (loss, top1), grads = mean_value_and_grad(loss_fn, state.params, axis_name)
        new = apply_gradients(state, grads, {}, tx, average=state.average)
        t = state.step.astype(jnp.float32)
        momentum = jnp.minimum(s.average_momentum, (1 + t) / (10 + t))
        new = new.replace(average=ema(state.average, new.params, momentum=momentum))
        metrics = {
            "loss": loss,
            "contrastive_top1": pmean(top1, axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        return new, metrics

    def embed(state: State, images: Array) -> tuple[Array, dict[str, Array]]:
        patches = cut(prepare(images))
        grid: Any = net.apply({"params": state.average}, patches, method=Net.encode)
        return jnp.mean(grid, axis=(1, 2)), {"grid": grid}

    return Method(init, train_step, embed, views)


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    colours="it changes the colours of its patches",
    state=State,
    num_crops=1,
    grid_feature="grid",
    whole_map=whole_map,
    averaged=("average", "batch_stats"),
)
