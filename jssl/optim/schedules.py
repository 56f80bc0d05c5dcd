"""Learning rates: their scaling with the batch, and their course over the steps."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from jssl.errors import UserError, nearest

# base learning rate and global batch size -> peak learning rate
SCALINGS = {
    "linear": lambda lr, batch_size: lr * batch_size / 256,  # Goyal et al. 2017
    "sqrt": lambda lr, batch_size: lr * math.sqrt(batch_size),  # SimCLR, appendix B.1
    "none": lambda lr, batch_size: lr,
}
SCHEDULES = ("cosine", "constant", "step", "exponential")


def scale(lr: float, *, batch_size: int, scaling: str) -> float:
    """The peak learning rate for a batch size.

    Args:
        lr: the base learning rate.
        batch_size: global, over all devices.
        scaling: 'linear': lr B/256; 'sqrt': lr sqrt(B); 'none': lr.

    Raises:
        UserError: unknown scaling, batch size below 1.

    Example:
        >>> round(scale(0.3, batch_size=4096, scaling='linear'), 6)
        4.8
        >>> round(scale(0.075, batch_size=4096, scaling='sqrt'), 6)
        4.8

    Reference:
        Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, appendix B.1.
    """
    if scaling not in SCALINGS:
        raise UserError(f"Unknown optim.lr_scaling '{scaling}': {nearest(scaling, SCALINGS)}.")
    if batch_size < 1:
        raise UserError(f"Scaling the learning rate needs a batch size >= 1, found {batch_size}.")
    return SCALINGS[scaling](lr, batch_size)


def simclr_steps(*, examples: int, epochs: int, batch_size: int) -> int:
    """Updates in SimCLR's official run: examples * epochs // batch_size + 1.

    Example:
        >>> simclr_steps(examples=1281167, epochs=100, batch_size=4096)
        31279
    """
    return examples * epochs // batch_size + 1


def make_schedule(
    name: str,
    *,
    peak: float,
    warmup_epochs: float,
    steps_per_epoch: float,
    total_steps: int,
    boundaries: Sequence[float] = (),
    factor: float = 0.1,
    decay_epochs: float = 2.4,
) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then 'cosine' to 0, 'constant', 'step' or 'exponential'.

    With w warm-up steps and S in total, the learning rate of step s = 0, 1, ... is

        peak s / w                                     s < w
        peak (1 + cos(pi (s - w) / (S - w))) / 2       'cosine'
        peak                                           'constant'
        peak factor^(boundaries at or before s)        'step'
        peak factor^floor(s / d)                       'exponential', d steps in decay_epochs

    Args:
        name: 'cosine', 'constant', 'step' or 'exponential'; the last counts its stairs from the
            start of the run, as EfficientNet does, and the warm-up hides the first of them.
        peak: learning rate at the end of the warm-up.
        warmup_epochs: length of the warm-up; 0 for none. w is rounded to whole steps.
        steps_per_epoch: updates in an epoch; may be a fraction.
        total_steps: S.
        boundaries: for 'step', increasing epochs counted from the start of the run.
        factor: the multiplier at each boundary of 'step', and stair of 'exponential'.
        decay_epochs: for 'exponential', the length of a stair; > 0, may be a fraction.

    Returns:
        A function from the step, int [], to the learning rate, a float32 [] or a float.

    Raises:
        UserError: unknown name; a warm-up as long as the run; boundaries that are not
            increasing, lie in the warm-up, or belong to another schedule; a stair of no length.

    Example:
        >>> lr = make_schedule('cosine', peak=4.8, warmup_epochs=10, steps_per_epoch=10,
        ...                    total_steps=1100)
        >>> [round(float(lr(step)), 6) for step in (0, 50, 100, 600, 1100)]
        [0.0, 2.4, 4.8, 2.4, 0.0]

    Reference:
        Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, appendix B.6; official code:
        https://github.com/google-research/simclr, model.py. Cosine: Loshchilov and Hutter, ICLR
        2017, https://arxiv.org/abs/1608.03983, equation 5 without restarts.
    """
    if name not in SCHEDULES:
        raise UserError(f"Unknown optim.schedule '{name}': {nearest(name, SCHEDULES)}.")
    warmup = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < total_steps:
        raise UserError(
            f"A warm-up of {warmup_epochs} epochs is {warmup} steps, but the run has "
            f"{total_steps}: it must be shorter. Type --config.optim.warmup_epochs="
            f"{max(0.0, 0.1 * total_steps / steps_per_epoch):g} for a tenth of the run."
        )
    at = [round(epoch * steps_per_epoch) - warmup for epoch in boundaries]
    if any(late <= early for early, late in zip([0, *at], at, strict=False)):
        raise UserError(
            f"optim.boundaries expects increasing epochs after the {warmup_epochs} of warm-up, "
            f"found {tuple(boundaries)}."
        )
    if bool(at) != (name == "step"):
        raise UserError(
            f"optim.boundaries are the epochs at which schedule 'step' multiplies by step_factor; "
            f"found schedule '{name}' and boundaries {tuple(boundaries)}."
        )

    if name == "cosine":
        after = optax.cosine_decay_schedule(peak, total_steps - warmup)
    elif name == "exponential":
        after = _stairs(peak, decay_epochs * steps_per_epoch, factor, warmup)
    elif name == "step":
        after = optax.piecewise_constant_schedule(peak, dict.fromkeys(at, factor))
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _stairs(peak: float, stair: float, factor: float, warmup: int) -> optax.Schedule:
    """peak factor^floor(step / stair), as a function of the steps since the warm-up."""
    if not stair > 0:
        raise UserError(
            f"optim.decay_epochs expects epochs > 0 for schedule 'exponential', found {stair} "
            "steps. Type --config.optim.decay_epochs=2.4."
        )
    return lambda step: peak * factor ** jnp.floor((step + warmup) / stair)
