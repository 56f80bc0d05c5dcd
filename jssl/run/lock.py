"""A workdir belongs to one run at a time: `lock.json` in it says whose it is.

The lock holds the host, the process and since when, and is written anew every `BEAT` seconds. One
that nobody holds any more is taken over, and that is said: its process is gone from this host, or
on another host it gave no sign of life for `STALE` seconds. Readers need no lock.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from jssl import files
from jssl.errors import UserError
from jssl.run import stopping
from jssl.run.writers import say

NAME = "lock.json"
BEAT = 15.0  # seconds between two signs of life
STALE = 120.0  # seconds without one, after which another host takes the lock over
POLL = 1.0  # seconds between two looks at another host's lock

_held: dict[Path, "_Lock"] = {}
_guard = threading.Lock()


class _Lock:
    """A lock that this process holds, and the thread that keeps it alive."""

    def __init__(self, path: Path, mine: dict[str, Any]):
        self.path, self.mine, self.lost = path, mine, False
        self.thread = threading.get_ident()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # the next one may be taken
                if self.is_mine():
                    files.write_json(self.path, {**self.mine, "beat": time.time()})
                else:
                    self.lost = True
                    return

    def is_mine(self) -> bool:
        found = _read(self.path)
        return found is None or found.get("token") == self.mine["token"]

    def release(self) -> None:
        self._over.set()
        self._beating.join()
        with contextlib.suppress(OSError):
            if self.is_mine():
                self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of a workdir, which exists; within it the same thread may take it again.

    Only the first process of a job takes it. It is given back at the end, after errors and signals
    too; a process that was killed leaves it, and the next one finds that it is dead.

    Args:
        folder: the workdir.

    Raises:
        UserError: another run holds it: its host, process and since when.
    """
    path = Path(os.path.realpath(folder)) / NAME
    with _guard:
        outer = _held.get(path)
    if jax.process_index() != 0 or (outer and outer.thread == threading.get_ident()):
        yield
        return
    lock = _Lock(path, _take(path))
    with _guard:
        _held[path] = lock
    try:
        with stopping.before_the_end(lock.release):
            try:
                yield
            finally:  # within, or a signal at this moment would leave the file behind
                lock.release()
    finally:
        with _guard:
            del _held[path]


def check(folder: Path) -> None:
    """Raises UserError when another run took the lock of a workdir over: it is not written to."""
    with _guard:
        lock = _held.get(Path(os.path.realpath(folder)) / NAME)
    if lock is not None and lock.lost:
        raise UserError(
            f"The lock of the workdir {folder} was taken over by {_whose(_read(lock.path))}, as "
            f"this process gave no sign of life for {STALE:g} s. It stops, and leaves the workdir "
            "to the other."
        )


def _take(path: Path) -> dict[str, Any]:
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "token": os.urandom(8).hex(),
        "beat": time.time(),
    }
    first_look: float | None = None
    seen: Any = None
    while True:
        if files.create(path, json.dumps(mine)):
            return mine
        found = _read(path)
        if found is None:
            continue  # it was given back just now
        if found.get("machine") == mine["machine"]:
            if _alive(found):
                raise _refusal(path, found)
            _take_over(path, found, "whose process is dead")
            continue
        # Clocks of two hosts differ: signs of life are waited for, and not compared with ours.
        if first_look is None:
            first_look, seen = time.monotonic(), found.get("beat")
            age = _age(path)
            say(
                f"The workdir is held by {_whose(found)}. Waiting {max(0, STALE - age):.0f} s "
                "at most for a sign of life of it."
            )
        if found.get("beat") != seen:
            raise _refusal(path, found)
        if age + time.monotonic() - first_look >= STALE:
            _take_over(path, found, f"which gave no sign of life for {STALE:g} s")
            first_look = None
            continue
        time.sleep(POLL)


def _take_over(path: Path, found: dict[str, Any], why: str) -> None:
    aside = path.with_name(f".{NAME}-{os.getpid()}-{threading.get_ident()}")
    try:
        files.move(path, aside)
    except FileNotFoundError:
        return  # another one was faster
    if (_read(aside) or {}).get("token") != found.get("token"):
        files.move(aside, path)  # it was the lock of the one that was faster
        return
    aside.unlink()
    say(f"The lock of the workdir is taken over from {_whose(found)}, {why}.")


def _refusal(path: Path, found: dict[str, Any]) -> UserError:
    return UserError(
        f"The workdir {path.parent} belongs to a run that is going on: {_whose(found)}. Wait for "
        "its end, stop it (it saves when it gets SIGTERM), or type another --workdir."
    )


def _whose(found: dict[str, Any] | None) -> str:
    found = found or {}
    host, pid, since = (found.get(key, "unknown") for key in ("host", "pid", "since"))
    return f"process {pid} on host {host}, since {since}"


def _read(path: Path) -> dict[str, Any] | None:
    """The content; {} of one that is not whole yet, or never will be; None where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(path: Path) -> float:
    """Seconds since the lock was written, by the clock of the file system alone."""
    probe = path.with_name(f".{NAME}-clock-{os.getpid()}")
    try:
        files.write_bytes(probe, b"")
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """What must be equal for a process id to mean the same: boot of the kernel, and namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, in ticks of its kernel; '' where there is none or it has ended."""
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # ended, and its parent has not looked yet
    except (OSError, IndexError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]  # no Linux
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return ""


def _alive(found: dict[str, Any]) -> bool:
    """Whether the process of a lock of this machine lives; its id may be another one's by now."""
    pid, started = found.get("pid"), found.get("started")
    return isinstance(pid, int) and started != "" and _started(pid) == started
