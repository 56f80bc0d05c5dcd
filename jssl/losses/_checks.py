"""Checks of hyper-parameters that may also be traced arrays."""

from typing import Any

import jax


def not_positive(value: Any) -> bool:
    """Whether a number is not above 0; False for a traced one (learnt, scheduled)."""
    return not isinstance(value, jax.Array) and not value > 0


def negative(value: Any) -> bool:
    """Whether a number is below 0 or NaN; False for a traced one."""
    return not isinstance(value, jax.Array) and not value >= 0
