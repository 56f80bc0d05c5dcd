"""Imports libraries that change global state when they are imported, and restores that state.

Some add a handler to the root logger, set environment variables or the start method of processes,
draw from `random` or change the warning filters. A program that imports jssl must not be affected:
`unchanged` restores all of it. flax is imported here, because nearly every module needs it;
packages import this module first.
"""

import contextlib
import logging
import multiprocessing
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def same_handlers() -> Iterator[None]:
    """Restores the root logger: absl adds a handler at the first line that a library logs."""
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Restores logging, environment, start method, random states and warning filters at the end.

    Example:
        >>> before = list(logging.root.handlers)
        >>> with unchanged():
        ...     logging.root.addHandler(logging.NullHandler())
        >>> logging.root.handlers == before
        True
    """
    environment, state, numpy_state = dict(os.environ), random.getstate(), np.random.get_state()
    filters = list(warnings.filters)
    start_method = multiprocessing.get_start_method(allow_none=True)
    try:
        with same_handlers():
            yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        if start_method is None:  # a queue of multiprocessing fixes it for the whole process
            multiprocessing.set_start_method(None, force=True)
        random.setstate(state)
        np.random.set_state(numpy_state)
        warnings.filters[:] = filters  # type: ignore[index]  # typeshed: a Sequence; it is a list


with unchanged():
    import flax as flax
