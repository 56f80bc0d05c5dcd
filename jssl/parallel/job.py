"""Ends all processes of a job together, with a message."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jssl.errors import UserError
from jssl.parallel import heartbeat

LOST = 3  # exit status of a process that ends because another one did


def initialize(flags: Any) -> None:
    """Joins the job of several processes, when the flags of a command say that there is one."""
    timeouts = {
        "initialization_timeout": flags.init_timeout,
        # Ours speaks first: jssl/parallel/heartbeat.py.
        "heartbeat_timeout_seconds": flags.heartbeat_timeout + heartbeat.LATER,
        "shutdown_timeout_seconds": flags.shutdown_timeout,
    }
    if flags.coordinator is not None:
        jax.distributed.initialize(flags.coordinator, flags.processes, flags.process, **timeouts)
    elif flags.distributed:
        jax.distributed.initialize(**timeouts)


@contextlib.contextmanager
def together(folder: str | Path, timeout: float = 0.0) -> Iterator[None]:
    """Ends this process at once if the run inside fails and the job has several processes.

    An exception alone would block: at exit, Python waits for the other processes, and they for this
    one. The process that failed prints its error; one that lost another prints one message instead
    of a traceback of the communication. With one process this does nothing.

    Args:
        folder: the workdir, for the message.
        timeout: seconds after which a process without a sign of life is lost; 0: not watched.
    """

    def lost(why: str) -> None:
        _end(LOST, _lost(why, folder))

    try:
        with heartbeat.watched(timeout, lost):
            yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, UserError):
            _end(2, f"{_mine()}: {error}")
        elif lost_another(error):
            _end(LOST, _lost(_first_line(error), folder))
        else:
            traceback.print_exc()
            _end(1, f"{_mine()} failed, and the others stop with it.")


def _mine() -> str:
    return f"jssl: process {jax.process_index()} of {jax.process_count()}"


def _lost(why: str, folder: str | Path) -> str:
    return (
        f"{_mine()} lost another process of the job and stops ({why}). The last checkpoint in "
        f"{folder} is whole: to resume, start all processes again with the same command, as many "
        "as divide the batch."
    )


def _end(status: int, text: str) -> None:
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


# Messages of gloo, NCCL, the TPU runtime and the coordination service for a lost peer.
_SIGNS = ("connection closed by peer", "connection reset", "connection refused", "broken pipe",
          "gloo", "nccl", "unavailable", "deadline_exceeded", "heartbeat", "coordination service",
          "peer", "preempted")  # fmt: skip


def lost_another(error: BaseException) -> bool:
    """Whether an error of the runtime means that another process has died.

    Example:
        >>> lost_another(ValueError('gloo is mentioned, but not by the runtime'))
        False
    """
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(s in text for s in _SIGNS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
