"""Keeps jssl's computations in 32 bits, whatever the process sets in JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def narrow(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that it is traced and run with 64-bit types off."""

    @functools.wraps(function)
    def narrowed(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return narrowed
