"""Measures the speed of a run before it starts, for `--minutes`: its schedule needs its length."""

import contextlib
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl.errors import UserError
from jssl.parallel.launcher import placed
from jssl.run import build
from jssl.run.batches import batches_of, sweep

UNTIMED = 4  # steps after the first, whose batches were read while it was compiled
TIMED, SECONDS = (3, 50), 3.0  # least and most timed steps; enough once they took so long
SHARE = 0.85  # of the minutes are for training, the rest for monitor, checkpoints and the table
FEWEST = 10  # steps of a run


class Speed(NamedTuple):
    """Seconds to compile, of a step, and of what is done at the start of every epoch."""

    compiling: float
    step: float
    refresh: float
    steps: int


def measure(parts: build.Experiment) -> Speed:
    """Times some steps of a run, from reading the pictures to the update; their state is dropped.

    Args:
        parts: of the run.

    Returns:
        `steps` is the number of timed steps.
    """
    launcher, method = parts.launcher, parts.method
    step_fn, refresh = launcher.compile_step(method.train_step), 0.0

    def refreshed(state: Any) -> Any:
        assert method.refresh is not None
        new, _ = method.refresh(launcher.as_global(state), lambda: sweep(parts))
        return placed(launcher, new)

    with contextlib.closing(batches_of(parts)) as batches:
        started = time.monotonic()
        state = build.init_state(parts)
        if method.refresh is not None:
            state = refreshed(state)
            between = time.monotonic()
            state = jax.block_until_ready(refreshed(state))
            refresh = time.monotonic() - between
            if method.order is not None:
                batches.reorder(method.order(state))
        for step in range(1 + UNTIMED + TIMED[1]):
            if step == 1:
                compiling = time.monotonic() - started - refresh
            if step == 1 + UNTIMED:
                started = time.monotonic()
            if step >= 1 + UNTIMED + TIMED[0] and time.monotonic() - started > SECONDS:
                break
            state, values = step_fn(state, launcher.put_batch(next(batches)), np.int32(step))
            jax.block_until_ready(values)
        else:
            step += 1
    timed = step - 1 - UNTIMED
    return Speed(compiling, (time.monotonic() - started) / timed, refresh, timed)


def epochs_in(minutes: float, spent: float, speed: Speed, steps_per_epoch: int) -> float:
    """Returns the epochs for which there is time: whole ones, or a fraction of one.

    Args:
        minutes: for all of the run.
        spent: seconds since it began.
        speed: measured; the training compiles once more.
        steps_per_epoch: in updates.

    Raises:
        UserError: there is no time for `FEWEST` steps.

    Example:
        >>> epochs_in(1.0, 10.0, Speed(5.0, 0.1, 0.0, 9), 50)
        7.0
        >>> epochs_in(1.0, 10.0, Speed(5.0, 0.1, 0.0, 9), 3600)
        0.1
    """
    left = 60 * minutes * SHARE - spent - speed.compiling
    epoch = steps_per_epoch * speed.step + speed.refresh
    epochs = left / epoch
    if epochs >= 1:
        return float(math.floor(epochs))
    steps = math.floor((left - speed.refresh) / speed.step)
    if steps < min(FEWEST, steps_per_epoch):
        least = spent + speed.compiling + speed.refresh + FEWEST * speed.step
        raise UserError(
            f"--minutes={minutes:g} leaves no time to train: starting takes {spent:.0f} s, "
            f"compiling {speed.compiling:.0f} s, a step {speed.step:.2g} s. Type --minutes="
            f"{math.ceil(least / SHARE / 6) / 10:g} or more, or a smaller --size or --model."
        )
    return steps / steps_per_epoch
