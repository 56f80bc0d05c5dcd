"""The software and hardware of a run: versions, commits, devices and the command."""

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
    """Returns libraries, commits, devices and machine of this process, for workdirs and records.

    `git` is the commit of jssl itself, `user_git` that of the repository in which the command was
    started, if it is another one. There are no absolute paths.
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
    """Returns the version of the installed package."""
    return _version("jssl")


def jssl_commit() -> str:
    """Returns the commit of jssl's source, `-dirty` if changed; 'unknown' if there is none.

    A wheel has a file with the commit that it was built from; in a checkout, git is asked. The
    repository of the user, which may contain the environment, is never used.
    """
    if COMMIT_FILE.is_file():
        return COMMIT_FILE.read_text().strip()
    if _git("rev-parse", "--show-toplevel", folder=PACKAGE) != str(PACKAGE.parent.resolve()):
        return "unknown"
    if not (PACKAGE.parent / "pyproject.toml").is_file():
        return "unknown"
    return _describe(PACKAGE) or "unknown"


def user_commit() -> str:
    """Returns the commit of the current repository; '' if there is none, or it is jssl's."""
    top = _git("rev-parse", "--show-toplevel", folder=Path.cwd())
    if not top or Path(top) == PACKAGE.parent.resolve():
        return ""
    return _describe(Path.cwd())


def _describe(folder: Path) -> str:
    return _git("describe", "--always", "--dirty", "--abbrev=12", folder=folder)


def _git(*args: str, folder: Path) -> str:
    """Returns the output of git in a folder; '' if it fails."""
    try:
        process = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def command() -> str:
    """Returns the command that started this process, as typed."""
    program = Path(sys.argv[0]).name
    start = ["python", "-m", "jssl"] if program == "__main__.py" else [program]
    return shlex.join([*start, *sys.argv[1:]])


def without_folders(text: str) -> str:
    """Shortens the absolute paths of a command to their last part, for published records.

    Example:
        >>> without_folders('jssl train --config=/home/me/c.py:size=8 --workdir=runs/a')
        'jssl train --config=.../c.py:size=8 --workdir=runs/a'
    """
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"=,:]+/)*(?=[^\s/])", ".../", text)
