"""Standard output and error that cannot hold up or end a run.

A run that is paid by the second must not wait for a reader that stopped reading its pipe (a stalled
ssh, a viewer that was left open), nor end because the pipe is closed or the disk of its log full.
Every number is in `metrics.jsonl` as well.
"""

import io
import os
import select
import sys
import threading
from typing import Any, TextIO

PATIENCE = 1.0  # seconds that one line waits for the reader
PIECE = select.PIPE_BUF  # what a pipe takes at once when poll says that it can be written


class Terminal(io.TextIOBase):
    """A text stream to a file descriptor that drops what nobody takes.

    Lines that meet a full pipe are left out after `PATIENCE` seconds, those that follow at once;
    when the reader reads again it is told how many. A pipe that is closed takes nothing more.

    Args:
        descriptor: of a pipe, a socket or a file.

    Example:
        >>> read, write = os.pipe()
        >>> print('hello', file=Terminal(write))
        >>> os.read(read, 100)
        b'hello\\n'
    """

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lock = threading.RLock()
        self._begun = ""  # a line whose end was not written yet
        self._missing = 0
        self._closed = False

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            lines, end, self._begun = (self._begun + text).rpartition("\n")
            self._try(lines + end)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            text, self._begun = self._begun, ""
            self._try(text)

    def _try(self, text: str) -> None:
        if not text or self._closed:
            return
        try:
            taken = self._taken(text)
        except BrokenPipeError:
            self._closed = taken = True
        except OSError:
            taken = False  # a full disk: it may have room later
        self._missing = 0 if taken else self._missing + max(1, text.count("\n"))

    def _taken(self, text: str) -> bool:
        patience, data = PATIENCE, text.encode(self.encoding, self.errors)
        if self._missing:
            patience = 0.0
            data = f"({self._missing} lines could not be written here)\n".encode() + data
        while data:
            if not self._poll.poll(1000 * patience):
                return False
            data = data[os.write(self._descriptor, data[:PIECE]) :]
        return True


class _Screen(io.FileIO):
    """A screen that may be closed while a run goes on, which then has to save."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def guard_streams() -> None:
    """Puts a `Terminal` in the place of standard output and error, or a `_Screen`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if _can_fail(stream):
            stream.flush()
            setattr(sys, name, Terminal(stream.fileno()))
        elif isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Screen(stream.fileno(), "wb", closefd=False))
            # Names of files may hold what is no UTF-8.
            screen = io.TextIOWrapper(
                raw, stream.encoding, errors="backslashreplace", line_buffering=True
            )
            setattr(sys, name, screen)


def _can_fail(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        return os.fstat(stream.fileno()) is not None and not stream.isatty()
    except (AttributeError, OSError, ValueError):  # a stream in memory
        return False
