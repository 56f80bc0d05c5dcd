"""A step that is not finite changes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jssl.state.rows import is_update, write
from jssl.types import Batch, Metrics, StepFn, TrainState


def guard(train_step: StepFn) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes a step keep the old state when its loss or gradient is not finite.

    The host reads metrics one step late. So that nothing is applied to a state that already
    failed, the update happens only when `state.step` is the step the host believes to run: after
    a failure the state stays as it was however many steps were dispatched behind it. A queue or
    bank of which a step writes a few rows is written where it lies, see `jssl.state.rows`.

    Args:
        train_step: `(state, batch) -> (state, metrics)`, with `'loss'` and perhaps `'grad_norm'`;
            perhaps a `WritesRows`.

    Returns:
        `(state, batch, expected int32 []) -> (state, metrics)`; `metrics['ok']` is bool [].
    """

    step = getattr(train_step, "deferred", train_step)

    def guarded(state: TrainState, batch: Batch, expected: jax.Array):
        new, metrics = step(state, batch)
        finite = jnp.isfinite(metrics["loss"])
        if "grad_norm" in metrics:
            finite &= jnp.isfinite(metrics["grad_norm"])
        ok = finite & (state.step == expected)

        def keep(n: Any, o: jax.Array) -> jax.Array:
            return write(n, ok) if is_update(n) else jnp.where(ok, n, o)

        kept = jax.tree.map(keep, new.replace(key=0), state.replace(key=0), is_leaf=is_update)
        return kept.replace(key=state.key), {**metrics, "ok": ok}

    return guarded
