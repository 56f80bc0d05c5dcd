"""Checks of hyper-parameters that may also be traced arrays."""

from typing import Any

import jax


def not_positive(value: Any) -> bool:
    """Whether a number is known and not above 0; a traced one (learnt, scheduled) is not known."""
    return not isinstance(value, jax.Array) and not value > 0


def negative(value: Any) -> bool:
    """Whether a number is known and below 0, or not a number; a traced one is not known."""
    return not isinstance(value, jax.Array) and not value >= 0
