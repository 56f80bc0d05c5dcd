"""Builds the optimiser and its schedule from the config's `optim` section."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

import optax

from jssl.errors import UserError, nearest
from jssl.optim import masks
from jssl.optim.lars import lars
from jssl.optim.schedules import make_schedule, scale
from jssl.types import PyTree

Mask = Callable[[PyTree], PyTree]
Tx: TypeAlias = optax.GradientTransformation

DEFAULTS: dict[str, Any] = {
    "name": "lars",  # a key of OPTIMISERS
    "lr": 0.3,  # base; the peak is this, scaled
    "lr_scaling": "linear",  # linear: lr B/256 | sqrt: lr sqrt(B) | none
    # after the warm-up: cosine | constant | step | exponential; or cosine_epochs, see `by_epochs`
    "schedule": "cosine",
    "warmup_epochs": 10.0,  # linear from start_lr
    "start_lr": 0.0,  # absolute, like end_lr: not scaled
    "end_lr": 0.0,  # of a cosine
    "boundaries": (),  # step: the epochs at which lr is multiplied by step_factor
    "step_factor": 0.1,
    "decay_epochs": 2.4,  # exponential: interval at which lr is multiplied by step_factor
    "momentum": 0.9,  # sgd, lars, rmsprop_tf
    "nesterov": False,  # sgd, lars
    "weight_decay": 1e-6,
    "rules": masks.EXCLUDE_NORM_AND_BIAS,  # (regex, group): which parameters decay and adapt
    "order": "lr_inside",  # lars: lr_inside (SimCLR) | lr_outside (BYOL, MoCo v3)
    "trust_coefficient": 0.001,  # lars
    "betas": (0.9, 0.999),  # adamw, lamb
    "rms_decay": 0.9,  # rmsprop_tf
    "eps": None,  # None: the optimiser's own, see EPS
    "clip_norm": 0.0,  # largest global norm of the gradient; 0: no clipping
}

EPS = {"sgd": 0.0, "adamw": 1e-8, "lars": 0.0, "lamb": 1e-6, "rmsprop_tf": 1e-3}


def _sgd(lr: optax.Schedule, c: SimpleNamespace, decay: Mask, adapt: Mask) -> Tx:
    """SGD: v <- momentum v + g + wd p; p <- p - lr v, as torch.optim.SGD."""
    return optax.chain(
        optax.add_decayed_weights(c.weight_decay, decay),
        optax.sgd(lr, c.momentum, c.nesterov),
    )


def _adamw(lr: optax.Schedule, c: SimpleNamespace, decay: Mask, adapt: Mask) -> Tx:
    """AdamW, Loshchilov and Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101; decay lr wd p."""
    return optax.adamw(lr, *c.betas, c.eps, weight_decay=c.weight_decay, mask=decay)


def _layerwise_sgd(lr: optax.Schedule, c: SimpleNamespace, decay: Mask, adapt: Mask) -> Tx:
    """LARS, see `lars`."""
    return lars(
        lr,
        order=c.order,
        momentum=c.momentum,
        nesterov=c.nesterov,
        weight_decay=c.weight_decay,
        trust_coefficient=c.trust_coefficient,
        eps=c.eps,
        decay_mask=decay,
        adapt_mask=adapt,
    )


def _layerwise_adam(lr: optax.Schedule, c: SimpleNamespace, decay: Mask, adapt: Mask) -> Tx:
    """LAMB, You et al., ICLR 2020, https://arxiv.org/abs/1904.00962: `optax.lamb` with rules."""
    return optax.chain(
        optax.scale_by_adam(*c.betas, c.eps),
        optax.add_decayed_weights(c.weight_decay, decay),
        optax.masked(optax.scale_by_trust_ratio(), adapt),
        optax.scale_by_learning_rate(lr),
    )


def _rmsprop_tf(lr: optax.Schedule, c: SimpleNamespace, decay: Mask, adapt: Mask) -> Tx:
    """TensorFlow's RMSProp, as in EfficientNet; the decay is an L2 loss, wd p in g.

    The mean square starts at 1, eps is inside the root, lr inside the momentum.
    """
    return optax.chain(
        optax.add_decayed_weights(c.weight_decay, decay),
        optax.rmsprop(
            lr, c.rms_decay, c.eps, initial_scale=1.0, eps_in_sqrt=True, momentum=c.momentum
        ),
    )


OPTIMISERS: dict[str, Callable[..., Tx]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _layerwise_sgd,
    "lamb": _layerwise_adam,
    "rmsprop_tf": _rmsprop_tf,
}


def build(
    optim_config: Mapping[str, Any],
    *,
    batch_size: int,
    steps_per_epoch: float,
    total_steps: int,
) -> tuple[Tx, optax.Schedule]:
    """Builds the optimiser and learning-rate schedule of a config.

    Args:
        optim_config: the config's `optim` section, or any mapping with some keys of `DEFAULTS`;
            missing keys take their defaults.
        batch_size: global, over all devices.
        steps_per_epoch: updates in an epoch.
        total_steps: updates in the run; the cosine reaches end_lr there.

    Returns:
        tx: an optax transformation. Its state is a pytree of arrays; its `init` applies
            `rules` and raises UserError unless they cover the parameters, see `groups`.
        schedule: step -> learning rate, for the log.

    Raises:
        UserError: unknown key, optimiser, schedule, scaling, order or group; values out of range;
            a warm-up that is too long.

    Example:
        >>> tx, schedule = build({'name': 'sgd', 'lr': 0.1, 'warmup_epochs': 1.0},
        ...                      batch_size=512, steps_per_epoch=10, total_steps=100)
        >>> round(float(schedule(10)), 6)  # linear scaling: 0.1 * 512 / 256
        0.2
    """
    given = {key: optim_config[key] for key in optim_config.keys()}
    for key in given:
        if key not in DEFAULTS:
            raise UserError(f"Unknown key 'optim.{key}': {nearest(key, DEFAULTS)}.")
    c = SimpleNamespace(**{**DEFAULTS, **given})
    if c.name not in OPTIMISERS:
        raise UserError(f"Unknown optim.name '{c.name}': {nearest(c.name, OPTIMISERS)}.")
    c.eps = EPS[c.name] if c.eps is None else c.eps
    _check_ranges(c)
    schedule = make_schedule(
        c.schedule,
        peak=scale(c.lr, batch_size=batch_size, scaling=c.lr_scaling),
        warmup_epochs=c.warmup_epochs,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        boundaries=c.boundaries,
        factor=c.step_factor,
        decay_epochs=c.decay_epochs,
        start=c.start_lr,
        end=c.end_lr,
    )
    tx = OPTIMISERS[c.name](
        schedule, c, masks.mask(c.rules, what="decay"), masks.mask(c.rules, what="adapt")
    )
    return optax.chain(_clip(c.clip_norm), tx), schedule


# How far a weight must be able to move, below which a run ends near its random start. LARS and LAMB
# move it by a share of its norm, Adam and RMSProp by about the rate itself, and weights begin at
# 0.02 to 0.1. SGD moves it by the rate times the gradient: at 34 times, a linear classifier on
# features of norm 4 was still 19 points below its optimum (71 %), so 10 is far too few.
FEWEST_MOVED = {"lars": 0.1, "lamb": 0.1, "adamw": 0.01, "rmsprop_tf": 0.01, "sgd": 10.0}


def rate_warning(
    optim_config: Mapping[str, Any],
    schedule: optax.Schedule,
    *,
    batch_size: int,
    total_steps: int,
) -> str:
    """Describes a learning rate that scaling by the batch made so small that nothing is learnt.

    Args:
        optim_config, batch_size, total_steps: as of `build`.
        schedule: from `build`.

    Returns:
        One line with the key to type; '' if the rate was not made smaller, or is large enough.

    Example:
        >>> run = {'batch_size': 4, 'steps_per_epoch': 10, 'total_steps': 20}
        >>> given = {'name': 'sgd', 'lr': 0.1, 'warmup_epochs': 0.0}
        >>> print(rate_warning(given, build(given, **run)[1], batch_size=4, total_steps=20))
        optim.lr 0.1 is 0.00156 for batches of 4 (linear scaling), and moves a weight by 0.164 \
times its gradient in 20 steps: expected 10 or more. Type --config.optim.lr_scaling=none, or a \
larger --config.optim.lr or --config.batch_size.
    """
    c = SimpleNamespace(**{**DEFAULTS, **{key: optim_config[key] for key in optim_config.keys()}})
    peak = scale(c.lr, batch_size=batch_size, scaling=c.lr_scaling)
    if not 0 < peak < c.lr:
        return ""
    every = max(1, total_steps // 100)  # the sum of a hundred steps will do
    moved = every * sum(float(schedule(step)) for step in range(0, total_steps, every))
    if c.name in ("sgd", "lars", "rmsprop_tf"):
        moved /= 1 - c.momentum
    if c.name == "lars":
        moved *= c.trust_coefficient
    least = FEWEST_MOVED[c.name]
    if moved >= least:
        return ""
    unit = {"lars": "of its norm", "lamb": "of its norm", "sgd": "times its gradient"}
    return (
        f"optim.lr {c.lr:g} is {peak:.3g} for batches of {batch_size} ({c.lr_scaling} scaling), "
        f"and moves a weight by {moved:.3g}{' ' + unit[c.name] if c.name in unit else ''} in "
        f"{total_steps:,} steps: expected {least:g} or more. Type --config.optim.lr_scaling=none, "
        "or a larger --config.optim.lr or --config.batch_size."
    )


def _clip(norm: float) -> Tx:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def _check_ranges(c: SimpleNamespace) -> None:
    for name, value in vars(c).items():
        counted = ("lr", "start_lr", "end_lr", "warmup_epochs", "weight_decay", "eps", "clip_norm")
        if name in counted and not value >= 0:
            raise UserError(f"optim.{name} expects a number >= 0, found {value}.")
        if name in ("momentum", "rms_decay") and not 0 <= value < 1:
            raise UserError(f"optim.{name} expects a number in [0,1), found {value}.")
    if len(c.betas) != 2 or not all(0 <= beta < 1 for beta in c.betas):
        raise UserError(f"optim.betas expects two numbers in [0,1), found {tuple(c.betas)}.")
