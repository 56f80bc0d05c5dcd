"""The lock of a workdir, `lock.json`: one run at a time.

The lock has the host, the process and the start time, and is rewritten every `BEAT` seconds. A dead
lock is taken over, with a message: its process on this host has ended, or a process on another host
gave no sign of life for `STALE` seconds. Readers need no lock.
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
from jssl.run import stopping, stores
from jssl.run.writers import say

NAME = "lock.json"
BEAT = 15.0  # seconds between two signs of life
STALE = 120.0  # seconds without one, after which another host takes over the lock
POLL = 1.0  # seconds between two reads of another host's lock

_held: dict[Path, "_Lock"] = {}
_guard = threading.Lock()


class _Lock:
    """A lock that this process holds, and the thread that keeps it alive."""

    def __init__(self, path: Path, mine: dict[str, Any]):
        self.path, self.mine, self.lost = path, mine, False
        self.thread = threading.get_ident()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._mirror = stores.mirror_of(path.parent)
        self._pushing: threading.Thread | None = None
        if self._mirror is not None:
            args = self._mirror, self._over
            self._pushing = threading.Thread(target=stores.keep_pushing, args=args, daemon=True)
        self._beating.start()

    def begin(self) -> None:
        """Brings the mirror of a bucket up to date: it may be of before the lock was taken."""
        if self._mirror is not None and self._pushing is not None:
            self._mirror.pull()
            self._mirror.writing = True
            self._pushing.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # the next write may succeed
                if self.is_mine():
                    _rewrite(self.path, {**self.mine, "beat": time.time()})
                else:
                    self.lost = True
                    if self._mirror is not None:
                        self._mirror.lost = True
                    return

    def is_mine(self) -> bool:
        content = _read(self.path)
        return content is None or content.get("token") == self.mine["token"]

    def release(self) -> None:
        self._over.set()
        self._beating.join()
        if self._mirror is not None and self._pushing is not None:
            if self._pushing.ident is not None:
                self._pushing.join()
            with contextlib.suppress(OSError):  # `stores.opened` tries again, and tells
                if self._mirror.writing:
                    self._mirror.push()
            self._mirror.writing = False
        with contextlib.suppress(OSError):
            if self.is_mine():
                _remove(self.path)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of an existing workdir; the same thread may take it again inside.

    Only the first process of a job takes it. It is released at the end, also after errors and
    signals; a killed process leaves it, and the next one detects that it is dead.

    Args:
        folder: the workdir.

    Raises:
        UserError: another run holds it; names its host, process and start time.
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
                lock.begin()
                yield
            finally:  # inside, or a signal at this moment would leave the file
                lock.release()
    finally:
        with _guard:
            del _held[path]


def holder(folder: Path) -> str:
    """Returns who holds the lock of a workdir; '' for nobody, or a dead process of this machine.

    The process of another machine is named without knowing whether it is alive.
    """
    content = _read(Path(os.path.realpath(folder)) / NAME)
    if content is None or (content.get("machine") == _machine() and not _alive(content)):
        return ""
    return _owner(content)


def check(folder: Path) -> None:
    """Raises UserError if another run took over the lock of a workdir: do not write to it."""
    with _guard:
        lock = _held.get(Path(os.path.realpath(folder)) / NAME)
    if lock is not None and lock.lost:
        raise UserError(
            f"The lock of the workdir {folder} was taken over by {_owner(_read(lock.path))}, as "
            f"this process gave no sign of life for {STALE:g} s. This process stops."
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
    wait_start: float | None = None
    first_beat: Any = None
    while True:
        if _create(path, json.dumps(mine)):
            return mine
        other = _read(path)
        if other is None:
            continue  # it was just released
        if other.get("machine") == mine["machine"]:
            if _alive(other):
                raise _refusal(path, other)
            if _take_over(path, other, mine, "whose process is dead"):
                return mine
            continue
        # Clocks of two hosts differ, so wait for a sign of life and do not compare times.
        if wait_start is None:
            wait_start, first_beat = time.monotonic(), other.get("beat")
            age = _age(path)
            say(
                f"The workdir is held by {_owner(other)}. Waiting {max(0, STALE - age):.0f} s "
                "at most for a sign of life."
            )
        if other.get("beat") != first_beat:
            raise _refusal(path, other)
        if age + time.monotonic() - wait_start >= STALE:
            if _take_over(path, other, mine, f"which gave no sign of life for {STALE:g} s"):
                return mine
            wait_start = None
            continue
        time.sleep(POLL)


def _object(path: Path) -> tuple[stores.Store, str] | None:
    """Returns the object that is the lock of a mirrored workdir; None: it is a file."""
    mirror = stores.mirror_of(path)
    return None if mirror is None else (mirror.store, path.relative_to(mirror.root).as_posix())


def _create(path: Path, text: str) -> bool:
    if found := _object(path):
        return found[0].write(found[1], text.encode(), None)
    return files.create(path, text)


def _rewrite(path: Path, mine: dict[str, Any]) -> None:
    """Writes a lock again; in a bucket only if it is still the same, see `Store.write`."""
    found = _object(path)
    if found is None:
        files.write_json(path, mine)
        return
    old = found[0].read(found[1])
    if old is None or _parsed(old[0]).get("token") == mine["token"]:
        found[0].write(found[1], json.dumps(mine).encode(), old and old[1])


def _remove(path: Path) -> None:
    if found := _object(path):
        found[0].remove(found[1])
    else:
        path.unlink(missing_ok=True)


def _take_over(path: Path, other: dict[str, Any], mine: dict[str, Any], reason: str) -> bool:
    """Removes a dead lock; in a bucket replaces it, and returns whether it is this process's."""
    said = f"The lock of the workdir is taken over from {_owner(other)}, {reason}."
    if found := _object(path):
        old = found[0].read(found[1])
        if old is None or _parsed(old[0]) != other:
            return False  # another process was faster
        taken = found[0].write(found[1], json.dumps(mine).encode(), old[1])
        if taken:
            say(said)
        return taken
    temporary = path.with_name(f".{NAME}-{os.getpid()}-{threading.get_ident()}")
    try:
        files.move(path, temporary)
    except FileNotFoundError:
        return False  # another process was faster
    if (_read(temporary) or {}).get("token") != other.get("token"):
        files.move(temporary, path)  # it was the lock of that faster process
        return False
    temporary.unlink()
    say(said)
    return False


def _refusal(path: Path, other: dict[str, Any]) -> UserError:
    return UserError(
        f"The workdir {path.parent} belongs to a run in progress: {_owner(other)}. Wait for "
        "its end, stop it (it saves on SIGTERM), or type another --workdir."
    )


def _owner(content: dict[str, Any] | None) -> str:
    content = content or {}
    host, pid, since = (content.get(key, "unknown") for key in ("host", "pid", "since"))
    return f"process {pid} on host {host}, since {since}"


def _read(path: Path) -> dict[str, Any] | None:
    """Returns the content; {} if it is incomplete or damaged; None if there is no lock."""
    if found := _object(path):
        old = found[0].read(found[1])
        return None if old is None else _parsed(old[0])
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError:
        return {}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _age(path: Path) -> float:
    """Returns seconds since the lock was written, by the clock of the file system."""
    if _object(path):
        return 0.0  # no clock of a bucket is asked: the whole `STALE` is waited
    probe = path.with_name(f".{NAME}-clock-{os.getpid()}")
    try:
        files.write_bytes(probe, b"")
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """Identifies the scope of process ids: host, boot of the kernel, and namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """Returns the start time of a process in kernel ticks; '' if there is none or it has ended."""
    try:
        # The name in parentheses may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # ZX: ended, but not yet reaped
    except (OSError, IndexError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]  # no Linux
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return ""


def _alive(content: dict[str, Any]) -> bool:
    """Whether the process of a lock of this machine is alive; its id may have been reused."""
    pid, started = content.get("pid"), content.get("started")
    return isinstance(pid, int) and started != "" and _started(pid) == started
