"""Workdirs in an object store: `gs://BUCKET/RUN` and `s3://BUCKET/RUN`.

A command works in a temporary folder, the mirror: the files of the run are brought down when it
starts, and the first process of a run brings whole files up while it holds the lock. A bucket can
neither rename nor lock, so:

lock.json        is created and replaced on a condition that the store checks: `jssl.run.lock`
checkpoints, gs  are written and read in the bucket by Orbax, which writes `commit_success.txt` last
checkpoints, s3  are written by Orbax in the mirror, as it has no writer for S3; their files are
                 brought up when they are whole, `SHA256SUMS` last, and only those with it come down
other files      come up before a checkpoint that is newer than they are
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jssl.errors import UserError
from jssl.run.bucket import Store, StoreError, filesystem, is_url
from jssl.third_party import unchanged

EVERY = 10.0  # seconds between two looks at the mirror for files to bring up
MARKER = "SHA256SUMS"  # the last file of a checkpoint, see `jssl.run.checksums`
LOCK = "lock.json"  # has its own writer, see `jssl.run.lock`
LAST = "best.json"  # names a checkpoint, and so follows it
_STEP = re.compile(r"((?:.*/)?checkpoints/\d+)/")

_open: dict[Path, "Mirror"] = {}


class Mirror:
    """The folder in which a command works, and the bucket that it mirrors.

    Args:
        store: of the workdir.
        root: the folder.
    """

    def __init__(self, store: Store, root: Path):
        self.store, self.root = store, root
        self.writing = False  # whether this process holds the lock, so that it may remove objects
        self.lost = False  # whether another took the lock over: nothing more is brought up
        self._remote: dict[str, str] = {}
        self._pushed: dict[str, tuple[int, int]] = {}
        self._mutex = threading.RLock()

    def url(self, path: Path) -> str:
        """Returns the URL of a path in the mirror."""
        return f"{self.store.url}/{path.relative_to(self.root).as_posix()}".removesuffix("/.")

    def pull(self) -> None:
        """Brings down what is new in the bucket, and whole."""
        with self._mutex:
            found = self.store.find()
            wanted = {name: v for name, v in found.items() if self._wanted(name, found)}
            for name in self._pushed.keys() - wanted.keys():
                (self.root / name).unlink(missing_ok=True)
                del self._pushed[name]
            for name, version in wanted.items():
                if name not in self._pushed or self._remote.get(name) != version:
                    with contextlib.suppress(FileNotFoundError):  # a run has just removed it
                        self.store.get(name, self.root / name)
                        self._pushed[name] = _signature(self.root / name)
            self._remote = found
            for place, _, _ in os.walk(self.root, topdown=False):
                if Path(place) != self.root and not os.listdir(place):
                    os.rmdir(place)

    def _wanted(self, name: str, found: dict[str, str]) -> bool:
        if not self._mirrored(name):
            return False
        step = _STEP.match(name)
        return step is None or f"{step[1]}/{MARKER}" in found

    def _mirrored(self, name: str) -> bool:
        """Whether an object has a file in the mirror; '/x' and '../x' would lie outside it."""
        parts = name.split("/")
        return not (
            parts[-1] == LOCK
            or any(
                not part or part.startswith(".") or "orbax-checkpoint-tmp" in part for part in parts
            )
            or (self.store.scheme == "gs" and "checkpoints" in parts)
        )

    def push(self) -> None:
        """Brings up what is new in the mirror; with the lock, removes what is gone there.

        Raises:
            StoreError: the bucket cannot be written.
        """
        if self.lost:
            return
        with self._mutex:
            now = dict(self._files())
            changed = [name for name, found in now.items() if self._pushed.get(name) != found]
            # The marker of a step that is written anew would vouch for a mixture of files.
            for name in changed:
                if name.endswith(f"/{MARKER}") and name in self._remote:
                    self._remove(name)
            gone: list[str] = []
            if self.writing:
                gone = [n for n in self._remote if n not in now and self._mirrored(n)]
            new = {step[1] for name in changed if (step := _STEP.match(name))}
            for name in [n for n in gone if (step := _STEP.match(n)) and step[1] in new]:
                self._remove(name)  # of a save that a kill has ended
                gone.remove(name)
            torn = set()
            for name in sorted(changed, key=_order):
                step = _STEP.match(name)
                if step and step[1] in torn:
                    continue
                try:
                    self.store.put(self.root / name, name)
                except FileNotFoundError:  # it was removed or replaced meanwhile
                    torn.add(step[1] if step else name)
                    continue
                self._remote[name], self._pushed[name] = "", now[name]
            for name in sorted(gone, key=_order, reverse=True):  # markers first
                self._remove(name)

    def _remove(self, name: str) -> None:
        self.store.remove(name)
        self._remote.pop(name, None)
        self._pushed.pop(name, None)

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for place, _, names in os.walk(self.root):
            for path in (Path(place) / name for name in names):
                name = path.relative_to(self.root).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    if self._mirrored(name) and path.is_file():
                        yield name, _signature(path)


def _signature(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _order(name: str) -> tuple[int, str]:
    if name.rpartition("/")[2] == LAST:
        return 3, name
    if _STEP.match(name) is None:
        return 0, name
    return (2 if name.endswith(f"/{MARKER}") else 1), name


@contextlib.contextmanager
def opened(workdir: str | None, *, several: bool = False) -> Iterator[str | None]:
    """Returns the folder to work in: the workdir, or the mirror of one in an object store.

    At the end the new files are brought up and the mirror is removed; if that fails it is kept.

    Args:
        workdir: as typed.
        several: whether the command is one of several processes of a job.

    Raises:
        UserError: no bucket, several processes with S3, a package that is not installed, or a
            bucket that cannot be used.
    """
    if workdir is None or not is_url(workdir):
        yield workdir
        return
    store = Store(workdir)
    if several and store.scheme == "s3":
        raise UserError(
            f"Found --workdir={workdir} in a job of several processes: they write a checkpoint "
            "together, and Orbax has no writer for S3. Mount the bucket (mount-s3 BUCKET "
            f"/mnt/BUCKET --allow-delete) and type --workdir=/mnt/{workdir.partition('://')[2]}, "
            "or use gs://."
        )
    top = Path(tempfile.mkdtemp(prefix="jssl-")).resolve()
    mirror = Mirror(store, top / store.url.rpartition("/")[2])
    mirror.root.mkdir()
    keep = ""
    try:
        mirror.pull()
        _open[mirror.root] = mirror
        try:
            yield str(mirror.root)
        except UserError as error:
            error.args = tuple(shown(x) if isinstance(x, str) else x for x in error.args)
            raise
        finally:
            keep = f"The files of this start are kept in {mirror.root}."
            _bring_up(mirror)
            keep = ""
    except StoreError as error:
        raise StoreError(f"{error} {keep}".strip()) from error
    finally:
        _open.pop(mirror.root, None)
        if not keep:
            shutil.rmtree(top, ignore_errors=True)


def _bring_up(mirror: Mirror) -> None:
    import jax

    if jax.process_index() == 0:
        mirror.push()


def mirror_of(path: str | Path) -> Mirror | None:
    """Returns the open mirror in which a path is, or None."""
    path = Path(path).absolute()
    return next((m for root, m in _open.items() if path.is_relative_to(root)), None)


def checkpoints(folder: str | Path) -> Any:
    """Returns the folder of the checkpoints of a workdir: in the bucket for gs://.

    Example:
        >>> checkpoints('/runs/simclr').as_posix()
        '/runs/simclr/checkpoints'
    """
    folder = Path(folder).absolute()
    mirror = mirror_of(folder)
    if mirror is None or mirror.store.scheme != "gs":
        return folder / "checkpoints"
    with unchanged():
        from etils import epath

        return epath.Path(mirror.url(folder)) / "checkpoints"


def move(path: Any, place: Any) -> None:
    """Renames a checkpoint; in a bucket it is copied, then removed."""
    if isinstance(path, Path):
        path.rename(place)
    else:
        filesystem("gs").mv(str(path), str(place), recursive=True)


def push(path: str | Path) -> None:
    """Brings up the new files of a run, if this process holds the lock of a mirrored workdir."""
    mirror = mirror_of(path)
    if mirror is not None and mirror.writing:
        mirror.push()


def keep_pushing(mirror: Mirror, over: threading.Event) -> None:
    """Brings up new files every `EVERY` seconds until the event; a failure is told and retried."""
    told = False
    while not over.wait(EVERY):
        try:
            mirror.push()
            told = False
        except StoreError as error:
            if not told:
                print(f"WARNING {error} It is tried again.", file=sys.stderr, flush=True)
            told = True


def shown(text: str) -> str:
    """Returns a message with the URLs of mirrored workdirs instead of their folders."""
    for root, mirror in _open.items():
        text = text.replace(str(root), mirror.store.url)
    return text
