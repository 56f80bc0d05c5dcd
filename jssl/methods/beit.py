"""BEiT: pictures are patches to the network and visual tokens to the loss.

Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254; official code
https://github.com/microsoft/unilm/tree/master/beit:

    z = argmax of the tokenizer's logits       frozen dVAE, h x w codes of the second, smaller crop
    M = blockwise mask, about 40 % of the patches
    h = ViT(x with the mask token at M)
    loss = mean over M of -ln softmax(W h_i)(z_i)

Both crops are of ONE box with one flip and one colour jitter: the image's is resized with bicubic
weights, the tokenizer's with lanczos to as many pixels as make h x w tokens. The head sees the
masked places only, gathered by an index of fixed size; what pads it has weight 0.
The jitter comes after the resize here and before the crop there: its contrast knows the mean of
the crop.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jssl import augment, losses, models
from jssl.errors import UserError, nearest
from jssl.methods._common import (
    apply_gradients,
    check_make,
    crops_on_host,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import MethodSpec, OtherRun
from jssl.models.dvae import Encoder, map_pixels
from jssl.models.vit_init import token_init
from jssl.parallel.collectives import global_index, pmean
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import Setting, choice, count, flag, text, whole
from jssl.types import Array, Batch, Method, Metrics, PyTree, RunLengths, TrainState

RANDOM = "random"
TRAIN_ONE = "jssl train --config=dvae_photos --workdir=runs/dvae_photos"

SETTINGS: dict[str, Setting] = {
    "tokenizer": text(""),  # workdir of a run of method dvae; 'random': one that was never trained
    # Of the tokenizer; those of a workdir are filled in from it.
    "vocabulary": Setting(8192, whole(2)),
    "hidden": count(256),
    "groups": count(4),
    "blocks": count(2),
    "mask": choice("official", "lecture"),  # official | lecture, see jssl.augment.blockwise_mask
    "masked": count(75),  # patches: at most (official); the lecture's ends above them
    "min_block": count(16),  # patches
    "exact": flag(False),  # random patches make it exactly `masked` (BEiT v2)
}


@flax.struct.dataclass
class State(TrainState):
    """State of BEiT, besides the fields of every method.

    Attributes:
        tokenizer: parameters of the dVAE's encoder, which nothing changes.
    """

    tokenizer: PyTree


class Net(nn.Module):
    """ViT, and the head that predicts the tokens of masked patches.

    images [B,H,W,3], mask bool [B,h,w], places int32 [B,n] -> logits float32 [B,n,K].
    """

    encoder: nn.Module
    head: nn.Module

    def __call__(self, images: Array, train: bool, mask: Array, places: Array, rows: Any = None):
        _, named = self.encoder(images, train=train, mask=mask, rows=rows)
        tokens = jnp.take_along_axis(named["tokens"], places[:, :, None], axis=1)
        return self.head(tokens).astype(jnp.float32)


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config."""
    dtype = jnp.dtype(config.dtype)
    encoder = models.build(config.model, axis_name=axis_name, dtype=dtype)
    if not isinstance(encoder, models.ViT) or not encoder.mask_token or encoder.pool != "class":
        raise UserError(
            f"BEiT masks patches of a ViT with a mask token and the last norm on every token; "
            f"found model.name='{config.model.name}'. Type --config.model.name=vit_small "
            "--config.model.mask_token=True --config.model.pool=class."
        )
    init = token_init(encoder.vit_init)
    head = nn.Dense(config.beit.vocabulary, kernel_init=init, dtype=dtype)
    return Net(encoder, head)


def make_tokenizer(config: Any) -> Encoder:
    """Makes the tokenizer, in float32, so that its codes are the same in every run."""
    s = config.beit
    return Encoder(s.vocabulary, s.hidden, s.groups, s.blocks)


def has_tokenizer(config: Any) -> bool:
    """Whether the tokenizer is read from a workdir.

    Raises:
        UserError: no tokenizer is named.
    """
    if not config.beit.tokenizer:
        raise UserError(
            "BEiT predicts the codes of a tokenizer, and config.beit.tokenizer names none. Train "
            f"one:\n  {TRAIN_ONE}\nand type --config.beit.tokenizer=runs/dvae_photos."
        )
    return config.beit.tokenizer != RANDOM


def resolve(config: Any, tokenizer: Any) -> None:
    """Fills in the tokenizer's settings.

    Raises:
        UserError: a run of another method.
    """
    if tokenizer.method != "dvae":
        raise UserError(
            f"config.beit.tokenizer='{config.beit.tokenizer}' is a run of method "
            f"'{tokenizer.method}', expected 'dvae'. Train one:\n  {TRAIN_ONE}"
        )
    for name in ("vocabulary", "hidden", "groups", "blocks"):
        config.beit[name] = tokenizer.dvae[name]


def put_tokenizer(config: Any, state: State, tokenizer: TrainState) -> State:
    """Puts the trained tokenizer into the first state."""
    encoder, expected = tokenizer.params["encoder"], state.tokenizer
    kinds = [
        (jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)])
        for tree in (encoder, expected)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"The tokenizer in '{config.beit.tokenizer}' has other shapes than config.beit says. "
            "Type another --workdir, in which they are filled in anew."
        )
    return state.replace(tokenizer=encoder)


def masks(config: Any, key: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Masks of images, by their numbers in the global batch, and the places to predict.

    Args:
        config: the whole config.
        key: typed PRNG key [].
        rows: int32 [B].

    Returns:
        bool [B,h,w], int32 [B,n], float32 [B,n]: see `jssl.augment.masked_places`.
    """
    s = config.beit
    side = config.augment.size // config.model.patch_size
    how = {"grid": (side, side), "count": s.masked, "min_patches": s.min_block}
    size = s.masked if s.exact else augment.largest_mask(**how, generator=s.mask)

    def one(row: Array) -> tuple[Array, Array, Array]:
        first, second = jax.random.split(jax.random.fold_in(key, row))
        mask = augment.blockwise_mask(first, **how, generator=s.mask)
        if s.exact:
            mask = augment.exact_mask(second, mask, count=s.masked)
        return mask, *augment.masked_places(mask, size=size)

    return jax.vmap(one)(rows)


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes BEiT's pure functions.

    Args:
        config: from `jssl.config.base('beit', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss` (ln K at first), `masked_top1`, how often the masked token
        is told, `top_token_share`, that of the most frequent token among the masked ones (what
        always saying it would reach), `masked_share` of the patches, and `grad_norm`. `embed` is
        the mean of the patches' tokens after the last norm, nothing masked; it names
        `layer1` ... [B,2D], class token and mean of the patches after each block.

    Raises:
        UserError: a network that is no ViT with a mask token; sizes that do not fit.
    """
    check_make("beit", config, lengths, SETTINGS)
    settings = config.beit
    net, tokenizer = make_net(config, axis_name), make_tokenizer(config)
    accumulate = accumulate_of(config)
    views, prepare = input_functions(config)
    second_views = token_views(config)

    def init(key: Array, batch: Batch) -> State:
        images = prepare(views(key, batch["image"], jnp.int32(0))[0])
        mask, places, _ = masks(config, key, jnp.arange(len(images)))
        variables = make_net(config, None).init(key, images, False, mask, places)
        crops = second_views(key, batch["image"], jnp.int32(0))
        other = tokenizer.init(jax.random.fold_in(key, 1), crops)["params"]
        return first_state(State, key, variables, tx, tokenizer=other)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        view_key, mask_key, drop_key = keys
        B = len(batch["image"])
        mask, places, weight = masks(config, mask_key, global_index(B, axis_name) + jnp.arange(B))
        # of all devices' masked places, so that the mean over devices is that of the global batch
        count = pmean(jnp.sum(weight), axis_name)
        if accumulate > 1:
            count = count / accumulate  # and so is the mean over microbatches

        def loss_fn(params, examples, rows):
            images, mask, places, weight = examples
            x = prepare(views(view_key, images, rows)[0])
            crops = second_views(view_key, images, rows)
            codes, _ = tokenizer.apply({"params": state.tokenizer}, map_pixels(crops))
            tokens = jax.lax.stop_gradient(jnp.argmax(codes, axis=-1)).reshape(len(images), -1)
            wanted = jnp.take_along_axis(tokens, places, axis=1).reshape(-1)
            weight = weight.reshape(-1)
            logits: Any = net.apply(
                {"params": params}, x, True, mask, places, rows, rngs={"stochastic_depth": drop_key}
            )
            logits = logits.reshape(-1, settings.vocabulary)
            loss = losses.cross_entropy(logits, wanted)
            right = losses.top_k_correct(jax.lax.stop_gradient(logits), wanted, k=1)
            share = jnp.zeros(settings.vocabulary).at[wanted].add(weight / count)
            return jnp.sum(weight * loss) / count, (jnp.sum(weight * right) / count, share)

        examples = (batch["image"], mask, places, weight)
        (loss, (right, share)), grads = accumulated_value_and_grad(
            loss_fn, state.params, examples, accumulate=accumulate, axis_name=axis_name
        )
        metrics = {
            "loss": loss,
            "masked_top1": pmean(right, axis_name),
            "top_token_share": jnp.max(pmean(share, axis_name)),
            "masked_share": pmean(jnp.mean(mask.astype(jnp.float32)), axis_name),
            "grad_norm": optax.tree.norm(grads),
        }
        return apply_gradients(state, grads, {}, tx, tokenizer=state.tokenizer), metrics

    def embed(state: State, images: Array) -> tuple[Array, dict[str, Array]]:
        _, named = net.encoder.apply(
            {"params": state.params["encoder"]}, prepare(images), train=False
        )
        layers = {}
        for i in range(net.encoder.depth):
            x = named[f"block{i}"].astype(jnp.float32)
            layers[f"layer{i + 1}"] = jnp.concatenate([x[:, 0], jnp.mean(x[:, 1:], axis=1)], axis=1)
        return jnp.mean(named["tokens"].astype(jnp.float32), axis=1), layers

    return Method(init, train_step, embed, views)


def token_views(config: Any) -> Any:
    """The tokenizer's crops: `(key, images, first) -> float32 [B,s,s,3]` in [0, 1].

    With the key of the image's crop they are of the same box, flip and jitter, because what is
    drawn does not depend on the size.

    Raises:
        UserError: a recipe of more than one view; a resize that the recipe does not know.
    """
    side = config.augment.size // config.model.patch_size
    options = {k: v for k, v in config.augment.options.items() if v is not None}
    fn = augment.make_views(
        config.augment.name,
        size=side * 2 ** (config.beit.groups - 1),
        host_crop=crops_on_host(config),
        **{**options, "resize": "lanczos"},
    )
    if fn.options["views"] != 1:
        raise UserError(
            f"BEiT makes one view of an image, found augment.name='{config.augment.name}' with "
            f"{fn.options['views']}. {nearest('beit', ['beit', 'crop_flip'])}."
        )

    def crops(key: Array, images: Array, first: Array) -> Array:
        return augment.batch_views(fn, key, images, first)[0]

    return crops


TOKENIZER = OtherRun(
    "tokenizer",
    has_tokenizer,
    resolve,
    put_tokenizer,
    field="tokenizer",
    codes=("head",),
    advice=f"Train one:\n  {TRAIN_ONE}",
)
SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    colours="its targets are the tokens of a dVAE of red, green and blue",
    state=State,
    num_crops=1,
    linear_preset="beit",
    other_runs=(TOKENIZER,),
    accumulates=True,
)
