"""A run that is asked to stop: by Ctrl-C (SIGINT), SIGTERM, or a closed terminal (SIGHUP).

The first signal is heard at once, also while XLA compiles, and answered by what is going on:

    nothing is lost by it   the process ends at once (before the first step, while judging)
    a step is running       the state is saved after it, then the process ends
    a pass over the data    the pass is left (refresh, monitor); the state before it is saved

A second signal ends the process at once. The exit status is `STATUS` in every case, and the same
command goes on. Only the command installs handlers; a library call leaves its caller's alone.
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

STATUS = 75  # EX_TEMPFAIL of sysexits.h: asked to stop, what was computed is kept, type it again
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE, AFTER_STEP, LEAVE = "at once", "after the step", "leave the pass"


class Interrupted(BaseException):
    """A pass over the data was left because the run is asked to stop."""


class _Listener:
    """What the signals of this process mean at present."""

    def __init__(self) -> None:
        self.answers: list[str] = [AT_ONCE]
        self.sentence = "Nothing is lost."
        self.heard: int | None = None
        self.before_end: list[Callable[[], Any]] = []
        self.alone = jax.process_count() == 1  # whether this process may end by itself


_current: _Listener | None = None


def asked() -> bool:
    """Whether a signal was heard."""
    return _current is not None and _current.heard is not None


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Listens for `SIGNALS` from the main thread, and puts the caller's handlers back at the end.

    A signal that the process was started to ignore (by `nohup`) stays ignored. In a job of several
    processes SIGTERM belongs to `jax.distributed`, which tells all processes of it; the others are
    passed on as SIGTERM.
    """
    global _current
    listener, numbers = _Listener(), list(SIGNALS)
    if jax.process_count() > 1:
        numbers.remove(signal.SIGTERM)
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    # Python's own handlers wait for the end of what the main thread does, which may be a compile
    # of minutes; the numbers of signals are written into this pipe at once.
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
def _answering(answer: str) -> Iterator[None]:
    listener = _current
    if listener is None:
        yield
        return
    listener.answers.append(answer)
    try:
        yield
    finally:
        listener.answers.pop()


@contextlib.contextmanager
def ends_at_once(sentence: str, *, last: bool = False) -> Iterator[None]:
    """Within, a signal ends the process at once; so does entering after one was heard.

    Args:
        sentence: what is kept, told before the end.
        last: nothing is trained any more: a process of a job need not tell the others either, and
            SIGTERM is taken from `jax.distributed`, which would only remember it.
    """
    listener = _current
    if listener is None:
        yield
        return
    if last and not listener.alone:
        listener.alone = True
        signal.signal(signal.SIGTERM, _leave_the_pass)
    before, listener.sentence = listener.sentence, sentence
    try:
        with _answering(AT_ONCE):
            if listener.heard is not None and listener.alone:
                _end(listener, sentence)
            yield
    finally:
        listener.sentence = before


def after_the_step() -> contextlib.AbstractContextManager[None]:
    """Within, a signal is only remembered: whoever asks `asked()` saves and ends."""
    return _answering(AFTER_STEP)


@contextlib.contextmanager
def leaves_the_pass() -> Iterator[None]:
    """Within, a signal raises `Interrupted` in the main thread: for what may be left undone."""
    if asked() and jax.process_count() == 1:
        raise Interrupted
    with _answering(LEAVE):
        yield


@contextlib.contextmanager
def before_the_end(call: Callable[[], Any]) -> Iterator[None]:
    """Calls this, too, where the process ends at once, which leaves out every `finally`."""
    listener = _current
    if listener is not None:
        listener.before_end.append(call)
    try:
        yield
    finally:
        if listener is not None:
            listener.before_end.remove(call)


def _leave_the_pass(number: int, frame: Any) -> None:
    # In the main thread; the listening thread has the rest.
    if _current is not None and _current.answers[-1] == LEAVE and jax.process_count() == 1:
        _current.heard = number
        raise Interrupted


def _listen(listener: _Listener, read: int) -> None:
    count = 0
    while received := os.read(read, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        count += 1
        listener.heard = number
        name = signal.Signals(number).name
        if count > 1:
            _end(listener, f"{name}, the second signal: ended at once. Saves that were complete "
                 "are kept.")  # fmt: skip
        elif not listener.alone:
            _tell(f"{name}: all processes of the job save and stop after this step.")
            os.kill(os.getpid(), signal.SIGTERM)
        elif listener.answers[-1] == AT_ONCE:
            _end(listener, f"{name}: {listener.sentence}")
        else:
            _tell(f"{name}: the state is saved after this step. A second signal ends at once.")


def _tell(text: str) -> None:
    # Not by `print`: the main thread may hold the lock of the stream, and a disk may be full.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode(errors="backslashreplace"))


def _end(listener: _Listener, sentence: str) -> None:
    for call in listener.before_end:
        with contextlib.suppress(Exception):
            call()
    _tell(f"{sentence}\nTo go on, type the same command again: {versions.command()}")
    for child in multiprocessing.active_children():
        child.kill()  # the data workers: their own end is left out as well
    os._exit(STATUS)
