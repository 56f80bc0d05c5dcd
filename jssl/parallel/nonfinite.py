"""Guard against non-finite steps, which change nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jssl.state.rows import is_update, write
from jssl.types import Batch, Metrics, StepFn, TrainState


def guard(train_step: StepFn) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a step that keeps the old state if its loss or gradient is not finite.

    The host reads metrics one step late. So the update is applied only if `state.step` equals the
    step that the host expects: after a failure the state stays unchanged, even if further steps
    were already dispatched. Rows of a queue or bank are written in place, see `jssl.state.rows`.

    Args:
        train_step: `(state, batch) -> (state, metrics)`, with `'loss'` and optionally
            `'grad_norm'`; may be a `WritesRows`.

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
