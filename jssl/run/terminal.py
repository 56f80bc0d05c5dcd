"""Standard output and error that cannot block or end a run.

A run must not wait for a reader that stopped reading its pipe (a stalled ssh, an open pager), nor
end because the pipe is closed or the disk of its log is full. Every number is in `metrics.jsonl`
as well.
"""

import io
import os
import select
import sys
import threading
from typing import Any, TextIO

PATIENCE = 1.0  # longest wait of a line for the reader, in seconds
PIECE = select.PIPE_BUF  # bytes that a pipe accepts without blocking when poll says it is writable


class Terminal(io.TextIOBase):
    """A text stream to a file descriptor that drops lines when it would block.

    If the pipe is full, a line is dropped after `PATIENCE` seconds, and the next ones at once; when
    the reader continues, the number of dropped lines is written. A closed pipe drops everything.

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
        self._partial = ""  # an incomplete line
        self._dropped = 0
        self._closed = False

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            lines, end, self._partial = (self._partial + text).rpartition("\n")
            self._try(lines + end)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            text, self._partial = self._partial, ""
            self._try(text)

    def _try(self, text: str) -> None:
        if not text or self._closed:
            return
        try:
            written = self._write_all(text)
        except BrokenPipeError:
            self._closed = written = True
        except OSError:
            written = False  # a full disk: it may have room later
        self._dropped = 0 if written else self._dropped + max(1, text.count("\n"))

    def _write_all(self, text: str) -> bool:
        patience, data = PATIENCE, text.encode(self.encoding, self.errors)
        if self._dropped:
            patience = 0.0
            data = f"({self._dropped} lines could not be written here)\n".encode() + data
        while data:
            if not self._poll.poll(1000 * patience):
                return False
            data = data[os.write(self._descriptor, data[:PIECE]) :]
        return True


class _Screen(io.FileIO):
    """A screen that may be closed during a run, which must then still save."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def guard_streams() -> None:
    """Replaces standard output and error by a `Terminal`, or a `_Screen`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if _can_fail(stream):
            stream.flush()
            setattr(sys, name, Terminal(stream.fileno()))
        elif isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Screen(stream.fileno(), "wb", closefd=False))
            # File names may not be UTF-8.
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
