"""Imports libraries that change the process when they are imported, and undoes what they change.

Some add a handler to the root logger, set environment variables, draw from `random` or change the
filters of warnings. A program that imports jssl must not notice: `unchanged` puts all of that back.
flax is imported here, because nearly every module needs it; packages import this module first.
"""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def same_handlers() -> Iterator[None]:
    """Puts the root logger back: absl gives it a handler at the first line that a library logs."""
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Puts logging, environment, random states and warning filters back at the end.

    Example:
        >>> before = list(logging.root.handlers)
        >>> with unchanged():
        ...     logging.root.addHandler(logging.NullHandler())
        >>> logging.root.handlers == before
        True
    """
    environment, state, drawn = dict(os.environ), random.getstate(), np.random.get_state()
    filters = list(warnings.filters)
    try:
        with same_handlers():
            yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        random.setstate(state)
        np.random.set_state(drawn)
        warnings.filters[:] = filters  # type: ignore[index]  # typeshed: a Sequence; it is a list


with unchanged():
    import flax as flax
