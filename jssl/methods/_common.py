"""What the mathematics of every method shares; no base class."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from jssl import augment, methods
from jssl.errors import UserError
from jssl.parallel.microbatches import accumulate_of
from jssl.precision import narrow
from jssl.settings import Setting, complaint
from jssl.types import Array, Batch, Method, PyTree, RunLengths, TrainState

State = TypeVar("State", bound=TrainState)


def check_make(
    name: str, config: Any, lengths: RunLengths, settings: Mapping[str, Setting]
) -> None:
    """Checks the arguments of a method's `make`.

    Args:
        name: of the method.
        config: the whole config.
        lengths: of the run.
        settings: of the method.

    Raises:
        UserError: a config of another method, channels that it does not take, lengths that are not
            three positive integers, a value of the method's section that breaks its rule.
    """
    if config.get("method") != name:
        raise UserError(
            f"{name}.make found a config of method '{config.get('method')}'. Expected one of "
            f"jssl.config.base('{name}', preset=...)."
        )
    check_colours(config)
    check_accumulate(config)
    whole = isinstance(lengths, RunLengths) and all(
        isinstance(v, (int, np.integer)) and v > 0 for v in lengths
    )
    if not whole:
        raise UserError(
            f"{name}.make found lengths={lengths!r}. Expected positive integers: "
            "jssl.types.RunLengths(num_examples=..., steps_per_epoch=..., total_steps=...)."
        )
    wrong = [
        complaint(f"{name}.{key}", settings[key].rule, value)
        for key, value in config[name].items()
        if key in settings and not settings[key].rule.holds(value)
    ]
    if wrong:
        raise UserError("\n".join(wrong))


def check_colours(config: Any) -> None:
    """Raises UserError where a method needs red, green and blue and the pictures have others."""
    channels, why = channels_of(config), methods.get(config.method).colours
    if why and channels != 3:
        raise UserError(
            f"Method '{config.method}' takes pictures of three channels, as {why}: found "
            f"data.channels={channels}. Type --config.data.channels=3, or another method."
        )


def check_accumulate(config: Any) -> None:
    """Raises UserError where a config asks a method for microbatches that it does not have."""
    found = accumulate_of(config)
    if found > 1 and not methods.get(config.method).accumulates:
        able = [name for name in methods.names() if methods.get(name).accumulates]
        raise UserError(
            f"Method '{config.method}' computes a batch at once: found "
            f"--config.accumulate={found}, expected 1. Type "
            f"--config.accumulate=1, or take one of {', '.join(able)}. "
            "--config.model.remat=True (ResNet, EfficientNet, ViT) also saves memory."
        )


def in_32_bits(make: Callable[..., Method]) -> Callable[..., Method]:
    """Decorates a method's `make`: its functions compute in 32 bits also under JAX_ENABLE_X64.

    With 64 bits on, JAX draws other random numbers and promotes what is meant as float32; the same
    config must give the same run.
    """

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Method:
        method = make(*args, **kwargs)
        functions = {k: f for k, f in method._asdict().items() if callable(f)}
        return method._replace(**{k: narrow(f) for k, f in functions.items()})

    return made


def crops_on_host(config: Any) -> bool:
    """Whether the random crops of a config are made on the host, before the device."""
    return config.data.host_crop not in ("", "device")


def channels_of(config: Any) -> int:
    """Returns the number of channels of a config's pictures; 3 of runs from before the key."""
    return config.data.get("channels", 3)


def input_functions(config: Any) -> tuple[Callable[..., Array], Callable[[Array], Array]]:
    """Makes the augmentation and the normalisation of a config.

    Args:
        config: the whole config; `augment` and `data.host_crop` are read.

    Returns:
        `views(key, images [B,...], first) -> float32 [V,B,h,w,C]` in [0, 1], and
        `prepare(images [B,h,w,C] uint8 or float in [0, 1]) -> float32`, the normalised input.
    """
    view_fn = augment.make_views(
        config.augment.name,
        size=config.augment.size,
        host_crop=crops_on_host(config),
        channels=channels_of(config),
        **{k: v for k, v in config.augment.options.items() if v is not None},
    )

    def views(key: Array, images: Array, first: Array) -> Array:
        return augment.batch_views(view_fn, key, images, first)

    statistics = augment.statistics_of(config.augment, channels_of(config))

    def prepare(images: Array) -> Array:
        return augment.normalize(augment.to_float(images), statistics)

    return views, prepare


def blank_batch(config: Any, size: int) -> Batch:
    """Returns a batch of `size` examples of zeros, for `init`."""
    spec = methods.get(config.method)
    if spec.data.dense:
        fields = spec.data.dense_fields(config)
        return {k: jnp.zeros((size, *shape), dtype) for k, (shape, dtype) in fields.items()}
    side = config.augment.size
    crops = (spec.num_crops,) if crops_on_host(config) else ()
    extra = spec.data.extra_fields(config)
    return {
        "image": jnp.zeros((size, *crops, side, side, channels_of(config)), jnp.uint8),
        "label": jnp.zeros((size,), jnp.int32),
        "index": jnp.zeros((size,), jnp.int32),
        **{k: jnp.zeros((size, side, side, *shape), dtype) for k, (shape, dtype) in extra.items()},
    }


def embed_function(net: nn.Module, prepare: Callable[[Array], Array]) -> Callable[..., Any]:
    """Makes `embed` for a net that returns (output, h, intermediates).

    Args:
        net: applied with the state's `params` and `batch_stats`.
        prepare: images -> input of the net.

    Returns:
        `embed(state, images [B,H,W,3]) -> (h float32 [B,D], intermediates)`.
    """

    def embed(state: TrainState, images: Array) -> tuple[Array, dict[str, Array]]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs: Any = net.apply(variables, prepare(images), train=False)
        _, h, intermediates = outputs
        chex.assert_rank(h, 2)
        chex.assert_type(h, jnp.float32)
        return h, intermediates

    return embed


class ProjectedEncoder(nn.Module):
    """Encoder f and projection head g: images [B,h,w,3] -> (z [B,d], h [B,D], intermediates)."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, images: Array, train: bool):
        h, intermediates = self.encoder(images, train=train)
        z = self.projector(h, train=train)
        return z, h, {**intermediates, "projection": z}


def training_pass(
    net: nn.Module, params: PyTree, batch_stats: PyTree, x: Array, method: Any = None
) -> tuple[Any, PyTree]:
    """Applies a net in training mode.

    Args:
        net: takes `train=True`.
        params, batch_stats: of the net.
        x: its input.
        method: of the net, `__call__` by default.

    Returns:
        The net's output, and the running statistics moved by the pass.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    output, updated = net.apply(variables, x, train=True, mutable=["batch_stats"], method=method)
    return output, updated.get("batch_stats", {})


def first_state(
    state_type: type[State],
    key: Array,
    variables: PyTree,
    tx: optax.GradientTransformation,
    **fields: Any,
) -> State:
    """Makes the state of step 0 from linen variables; `fields` are the method's own."""
    return state_type(
        step=jnp.int32(0),
        key=key,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(variables["params"]),
        **fields,
    )


def apply_gradients(
    state: State,
    grads: PyTree,
    batch_stats: PyTree,
    tx: optax.GradientTransformation,
    **fields: Any,
) -> State:
    """Updates the parameters by `tx`, the running statistics, the step and the method's fields."""
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, state.params)
    chex.assert_trees_all_equal_structs(batch_stats, state.batch_stats)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        **fields,
    )
