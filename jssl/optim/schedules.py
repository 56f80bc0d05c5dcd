"""Learning rates: scaling with the batch size, and schedules over the steps."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax

from jssl.errors import UserError, nearest
from jssl.types import Array

# base learning rate and global batch size -> peak learning rate
SCALINGS = {
    "linear": lambda lr, batch_size: lr * batch_size / 256,  # Goyal et al. 2017
    "sqrt": lambda lr, batch_size: lr * math.sqrt(batch_size),  # SimCLR, appendix B.1
    "none": lambda lr, batch_size: lr,
}
SCHEDULES = ("cosine", "cosine_epochs", "constant", "step", "exponential")


def scale(lr: float, *, batch_size: int, scaling: str) -> float:
    """Computes the peak learning rate for a batch size.

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


UPDATES = ("whole_epochs", "examples", "examples_and_one")


def count_updates(rule: str, *, examples: int, epochs: float, batch_size: int) -> int:
    """Computes the number of updates of a run, as in the official code of its method.

        whole_epochs        epochs * (examples // batch_size): the last batch of a pass is dropped
        examples            epochs * examples // batch_size: BYOL, EfficientNet, Noisy Student
        examples_and_one    one more: SimCLR

    A run that counts by examples starts another pass over the data for its last updates.

    Args:
        rule: one of `UPDATES`.
        examples: in the train split.
        epochs: may be a fraction.
        batch_size: global.

    Returns:
        At least 1.

    Raises:
        UserError: an unknown rule.

    Example:
        >>> [count_updates(rule, examples=1281167, epochs=1000, batch_size=4096)
        ...  for rule in UPDATES]
        [312000, 312784, 312785]

    Reference: https://github.com/google-research/simclr, model_util.py; configs/byol.py of
        https://github.com/google-deepmind/deepmind-research.
    """
    if rule not in UPDATES:
        raise UserError(f"Unknown config.updates '{rule}': {nearest(rule, UPDATES)}.")
    if rule == "whole_epochs":
        return max(1, round(examples // batch_size * epochs))
    return max(1, int(examples * epochs // batch_size) + (rule == "examples_and_one"))


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
    start: float = 0.0,
    end: float = 0.0,
) -> optax.Schedule:
    """Returns a schedule with linear warm-up, then 'cosine', 'constant', 'step' or 'exponential'.

    With w warm-up steps and S in total, the learning rate of step s = 0, 1, ... is

        start + (peak - start) s / w                   s < w
        end + (peak - end) (1 + cos(pi (s - w) / (S - w))) / 2       'cosine'
        peak                                           'constant'
        peak factor^(boundaries at or before s)        'step'
        peak factor^floor(s / d)                       'exponential', d steps in decay_epochs

    and 'cosine_epochs' is `by_epochs`.

    Args:
        name: one of `SCHEDULES`; 'exponential' decays from the start of the run, as EfficientNet,
            so that the warm-up replaces its first values.
        peak: learning rate at the end of the warm-up.
        warmup_epochs: length of the warm-up; 0 for none. w is rounded to whole steps, or rounded
            down if an epoch is not a whole number of steps.
        steps_per_epoch: updates in an epoch; may be a fraction.
        total_steps: S.
        boundaries: for 'step', increasing epochs counted from the start of the run.
        factor: the multiplier at each boundary of 'step', and interval of 'exponential'.
        decay_epochs: for 'exponential', the interval of the decay; > 0, may be a fraction.
        start, end: the first rate of a warm-up, and the last of a cosine; not scaled with the
            batch.

    Returns:
        A function from the step, int [], to the learning rate, a float32 [] or a float.

    Raises:
        UserError: unknown name; a run of no steps; a warm-up as long as the run; boundaries that
            are not increasing, lie in the warm-up, or belong to another schedule; an empty decay
            interval.

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
    if not (steps_per_epoch > 0 and total_steps > 0):
        raise UserError(
            f"A schedule found steps_per_epoch={steps_per_epoch} and total_steps={total_steps}: "
            "expected the lengths of the run, both above 0."
        )
    warmup = round(warmup_epochs * steps_per_epoch)
    if steps_per_epoch % 1:  # counted by examples, as in the official code of SimCLR and BYOL
        warmup = math.floor(warmup_epochs * steps_per_epoch)
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
    if end and not name.startswith("cosine"):
        raise UserError(
            f"optim.end_lr is where a cosine ends; found schedule '{name}' and end_lr {end}. Type "
            "--config.optim.end_lr=0."
        )
    if name == "cosine_epochs":
        return by_epochs(
            peak=peak,
            start=start,
            end=end,
            warmup_epochs=warmup_epochs,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )
    if name == "cosine":
        alpha = end / peak if peak else 0.0
        after = optax.cosine_decay_schedule(peak, total_steps - warmup, alpha)
    elif name == "exponential":
        after = _exponential(peak, decay_epochs * steps_per_epoch, factor, warmup)
    elif name == "step":
        after = optax.piecewise_constant_schedule(peak, dict.fromkeys(at, factor))
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(start, peak, warmup), after], [warmup])


def by_epochs(
    *,
    peak: float,
    start: float,
    end: float,
    warmup_epochs: float,
    steps_per_epoch: float,
    total_steps: int,
) -> optax.Schedule:
    """Returns the schedule of DeiT's official code: one rate an epoch, delayed by one epoch.

    The code gets the rate at t from timm's scheduler after epoch t, so that epoch t + 1 uses it and
    the first two epochs are equal. With E epochs in total and w of warm-up,

        rate(t) = start + (peak - start) t / w                     t < w
                  end + (peak - end) (1 + cos(pi t / E)) / 2       t >= w, from t and not t - w

    Args:
        peak: end of the warm-up.
        start, end: rates at t = 0 and at t = E.
        warmup_epochs: w; 0 for none.
        steps_per_epoch, total_steps: updates in an epoch, and in the run.

    Returns:
        A function from the step, int [], to the learning rate, float32 [].

    Example:
        >>> lr = by_epochs(peak=1.0, start=0.0, end=0.1, warmup_epochs=2, steps_per_epoch=10,
        ...                total_steps=40)
        >>> [round(float(lr(step)), 3) for step in (0, 10, 19, 20, 30)]
        [0.0, 0.0, 0.0, 0.5, 0.55]

    Reference:
        https://github.com/facebookresearch/deit, main.py; timm 0.3.2, scheduler/cosine_lr.py.
    """
    epochs = math.ceil(total_steps / steps_per_epoch)
    num_epochs = total_steps / steps_per_epoch  # E; a run may stop in the middle of an epoch

    def rate(t: int) -> float:
        if t < warmup_epochs:
            return start + (peak - start) * t / warmup_epochs
        return end + (peak - end) * (1 + math.cos(math.pi * t / num_epochs)) / 2

    # The first step of each epoch except the first, as integers.
    starts = np.array([math.ceil(e * steps_per_epoch) for e in range(1, epochs)], np.int32)
    rates = np.array([rate(max(e - 1, 0)) for e in range(epochs)], np.float32)

    def schedule(step: Array | int) -> Array:
        return jnp.asarray(rates)[jnp.sum(starts <= jnp.asarray(step)[..., None], axis=-1)]

    return schedule


def _exponential(peak: float, interval: float, factor: float, warmup: int) -> optax.Schedule:
    """Returns peak factor^floor(step / interval), as a function of the steps since the warm-up."""
    if not interval > 0:
        raise UserError(
            f"optim.decay_epochs expects epochs > 0 for schedule 'exponential', found {interval} "
            "steps. Type --config.optim.decay_epochs=2.4."
        )
    return lambda step: peak * factor ** jnp.floor((step + warmup) / interval)
