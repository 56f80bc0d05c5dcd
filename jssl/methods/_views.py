"""Several views of one example, as channels of a picture or arrays beside it: their inputs.

`config.NAME` of a method NAME has the keys `views`, `segments` and `flow_frames`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jssl import augment
from jssl.augment import modalities
from jssl.errors import UserError
from jssl.methods._common import crops_on_host
from jssl.types import Array, Batch, TrainState


def extra_fields(config: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """The arrays that a batch must hold beside the picture: {name: (shape after [B,H,W], dtype)}.

    Raises:
        UserError: unknown views, or fewer than two.
    """
    settings = config[config.method]
    if len(settings.views) < 2:
        raise UserError(
            f"config.{config.method}.views is {tuple(settings.views)}: expected two views or more, "
            f"of {', '.join(modalities.VIEWS)}."
        )
    return modalities.fields(
        settings.views, segments=settings.segments, flow_frames=settings.flow_frames
    )


def check_views(config: Any) -> None:
    """Raises UserError for views that cannot be made, or that the host would cut apart."""
    if extra_fields(config) and crops_on_host(config):
        raise UserError(
            f"Views {', '.join(config[config.method].views)} are cut together on the device; found "
            f"data.host_crop='{config.data.host_crop}'. Type --config.data.host_crop=device."
        )


def make_inputs(config: Any, crops: Callable[..., Array]) -> tuple[Callable[..., Any], ...]:
    """Makes the functions from arrays to views.

    Args:
        config: the whole config.
        crops: of `input_functions`.

    Returns:
        `split(arrays, views) -> {view: [B,h,w,C]}`, and `inputs(key, batch, first)`, the same of a
        batch whose pictures and fields are cropped alike.
    """
    settings = config[config.method]
    views = tuple(settings.views)
    crop_fn = augment.make_views(
        config.augment.name,
        size=config.augment.size,
        **{k: v for k, v in config.augment.options.items() if v is not None},
    )
    needed = (*dict.fromkeys(modalities.VIEWS[view].field for view in views),)

    statistics = augment.statistics_of(config.augment)

    def split(arrays: Mapping[str, Array], chosen: tuple[str, ...]) -> dict[str, Array]:
        return modalities.split_views(
            arrays, chosen, segments=settings.segments, normalize=statistics
        )

    def inputs(key: Array, batch: Batch, first: Array) -> dict[str, Array]:
        if needed == ("image",):
            return split({"image": crops(key, batch["image"], first)[0]}, views)
        arrays = {name: batch[name] for name in needed if name in batch}
        if len(arrays) == len(needed):  # else `split` says what is missing
            arrays = modalities.batch_modalities(crop_fn, key, arrays, first)
        return split(arrays, views)

    return split, inputs


def side_by_side(named: list[dict[str, Array]]) -> dict[str, Array]:
    """The intermediates of several networks, with their channels one after the other."""
    return {name: jnp.concatenate([n[name] for n in named], axis=-1) for name in named[0]}


def embed_views(net: nn.Module, split: Callable[..., Any], views: tuple[str, ...]) -> Any:
    """Makes `embed` for a net that takes {view: input} and returns (output, h, intermediates).

    Args:
        net: applied with the state's `params` and `batch_stats`.
        split: of `make_inputs`.
        views: of the config.

    Returns:
        `embed(state, images) -> (h [B,V D], intermediates)`, of the views that the picture
        [B,H,W,3] makes; or, given a mapping of all arrays of a batch, of all.
    """
    of_image = tuple(v for v in views if modalities.VIEWS[v].field == modalities.IMAGE)

    def embed(state: TrainState, images: Any) -> tuple[Array, dict[str, Array]]:
        mapping = isinstance(images, Mapping)
        x = split(images, views) if mapping else split({"image": images}, of_image)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs: Any = net.apply(variables, x, train=False)
        _, h, intermediates = outputs
        return h, intermediates

    return embed
