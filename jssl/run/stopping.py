"""Stops a run on Ctrl-C (SIGINT), SIGTERM, or a closed terminal (SIGHUP).

The first signal is received at once, also while XLA compiles. What happens depends on the phase:

    nothing would be lost   the process exits at once (before the first step, during evaluation)
    a training step         the state is saved after it, then the process exits
    a pass over the data    the pass is aborted (refresh, monitor); the state before it is saved

A second signal exits at once. The exit status is always `STATUS`, and the same command resumes the
run. Only the command installs handlers; a library call does not change its caller's.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jssl.run import versions

STATUS = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, results kept, can be resumed
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE, AFTER_STEP, LEAVE = "at once", "after the step", "leave the pass"


class Interrupted(BaseException):
    """A pass over the data was aborted because the run is asked to stop."""


class _Listener:
    """How signals of this process are handled at present."""

    def __init__(self) -> None:
        self.actions: list[str] = [AT_ONCE]
        self.message = "Nothing is lost."
        self.received: int | None = None
        self.before_end: list[Callable[[], Any]] = []
        self.independent = jax.process_count() == 1  # whether this process may exit by itself


_current: _Listener | None = None


def asked() -> bool:
    """Whether a signal was received."""
    return _current is not None and _current.received is not None


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Handles `SIGNALS` in the main thread, and restores the caller's handlers at the end.

    A signal that is ignored from the start (by `nohup`) stays ignored. In a job of several
    processes `jax.distributed` handles SIGTERM and informs all processes; other signals are
    converted to SIGTERM.
    """
    global _current
    listener, numbers = _Listener(), list(SIGNALS)
    if jax.process_count() > 1:
        numbers.remove(signal.SIGTERM)
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    # Python's own handlers wait for the main thread, which may compile for minutes; the numbers of
    # signals are written to this pipe at once.
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _leave_the_pass) for number in numbers}
    _current = listener
    thread = threading.Thread(target=_listen, args=(listener, read), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)  # ends the thread
        thread.join()
        os.close(read)
        _current = None


@contextlib.contextmanager
def _acting(action: str) -> Iterator[None]:
    listener = _current
    if listener is None:
        yield
        return
    listener.actions.append(action)
    try:
        yield
    finally:
        listener.actions.pop()


@contextlib.contextmanager
def ends_at_once(message: str, *, last: bool = False) -> Iterator[None]:
    """Inside, a signal exits the process at once; so does entering after a signal.

    Args:
        message: what is kept, printed before the exit.
        last: training is finished: a process of a job need not inform the others, and SIGTERM is
            taken from `jax.distributed`, which would only store it.
    """
    listener = _current
    if listener is None:
        yield
        return
    if last and not listener.independent:
        listener.independent = True
        signal.signal(signal.SIGTERM, _leave_the_pass)
    before, listener.message = listener.message, message
    try:
        with _acting(AT_ONCE):
            if listener.received is not None and listener.independent:
                _end(listener, message)
            yield
    finally:
        listener.message = before


def after_the_step() -> contextlib.AbstractContextManager[None]:
    """Inside, a signal is only stored: the caller checks `asked()`, saves and exits."""
    return _acting(AFTER_STEP)


@contextlib.contextmanager
def leaves_the_pass() -> Iterator[None]:
    """Inside, a signal raises `Interrupted` in the main thread, for work that may be aborted."""
    if asked() and jax.process_count() == 1:
        raise Interrupted
    with _acting(LEAVE):
        yield


@contextlib.contextmanager
def before_the_end(call: Callable[[], Any]) -> Iterator[None]:
    """Registers a call for an exit at once, which skips every `finally`."""
    listener = _current
    if listener is not None:
        listener.before_end.append(call)
    try:
        yield
    finally:
        if listener is not None:
            listener.before_end.remove(call)


def _leave_the_pass(number: int, frame: Any) -> None:
    # In the main thread; the listening thread does the rest.
    if _current is not None and _current.actions[-1] == LEAVE and jax.process_count() == 1:
        _current.received = number
        raise Interrupted


def _listen(listener: _Listener, read: int) -> None:
    count = 0
    while received := os.read(read, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        count += 1
        listener.received = number
        name = signal.Signals(number).name
        if count > 1:
            _end(listener, f"{name}, the second signal: ended at once. Completed checkpoints are "
                 "kept.")  # fmt: skip
        elif not listener.independent:
            _print(f"{name}: all processes of the job save and stop after this step.")
            os.kill(os.getpid(), signal.SIGTERM)
        elif listener.actions[-1] == AT_ONCE:
            _end(listener, f"{name}: {listener.message}")
        else:
            _print(f"{name}: the state is saved after this step. A second signal ends at once.")


def _print(text: str) -> None:
    # Not `print`: the main thread may hold the lock of the stream, and the disk may be full.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode(errors="backslashreplace"))


def _end(listener: _Listener, message: str) -> None:
    for call in listener.before_end:
        with contextlib.suppress(Exception):
            call()
    _print(f"{message}\nTo resume, type the same command again: {versions.command()}")
    for child in multiprocessing.active_children():
        child.kill()  # the data workers, which os._exit does not stop
    os._exit(STATUS)
