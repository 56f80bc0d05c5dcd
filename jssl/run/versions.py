"""What a run was made with: versions, commits, devices and the command."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ("jssl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
PACKAGE = Path(__file__).parents[1]  # the folder jssl
COMMIT_FILE = PACKAGE / "COMMIT"  # written into the wheel when it is built


def collect() -> dict[str, Any]:
    """Libraries, commits, devices and machine of this process, as a workdir and a record keep them.

    `git` is the commit of jssl itself, `user_git` that of the repository in which the command was
    started, where that is another one. No absolute path is among them.
    """
    import jax

    return {
        "libraries": {name: _version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "git": jssl_commit(),
        "user_git": user_commit(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
        "command": without_folders(command()),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def jssl_version() -> str:
    """The version of the installed package."""
    return _version("jssl")


def jssl_commit() -> str:
    """The commit of jssl's own source, `-dirty` when changed; 'unknown' where there is none.

    A wheel holds the commit that it was built of. A checkout is asked itself. The repository of
    the user, in which an environment may lie, is never taken for jssl's.
    """
    if COMMIT_FILE.is_file():
        return COMMIT_FILE.read_text().strip()
    if _git("rev-parse", "--show-toplevel", folder=PACKAGE) != str(PACKAGE.parent.resolve()):
        return "unknown"
    if not (PACKAGE.parent / "pyproject.toml").is_file():
        return "unknown"
    return _describe(PACKAGE) or "unknown"


def user_commit() -> str:
    """The commit of the repository that the command was started in; '' for none or for jssl's."""
    top = _git("rev-parse", "--show-toplevel", folder=Path.cwd())
    if not top or Path(top) == PACKAGE.parent.resolve():
        return ""
    return _describe(Path.cwd())


def _describe(folder: Path) -> str:
    return _git("describe", "--always", "--dirty", "--abbrev=12", folder=folder)


def _git(*words: str, folder: Path) -> str:
    """What git says in a folder; '' where it says nothing."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command() -> str:
    """The words that started this process, as one would type them."""
    program = Path(sys.argv[0]).name
    words = ["python", "-m", "jssl"] if program == "__main__.py" else [program]
    return shlex.join([*words, *sys.argv[1:]])


def without_folders(text: str) -> str:
    """A command whose absolute paths are cut to their last part, for a record that travels.

    Example:
        >>> without_folders('jssl train --config=/home/me/c.py:size=8 --workdir=runs/a')
        'jssl train --config=.../c.py:size=8 --workdir=runs/a'
    """
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"=,:]+/)*(?=[^\s/])", ".../", text)
