"""The folder of a run, and its files.

config.json      the resolved config            versions.json   libraries, git, devices
classes.json     names of the classes, by number
parameters.txt   the table of parameters        metrics.jsonl   every logged number
checkpoints/     states                         result.json     the evaluation at the end
pictures/        images of a method, such as the reconstructions of a dVAE
report.html      one page with all of this, see `jssl.report`; its pictures of the network are kept
                 in report_pictures.json
lock.json        the process that runs, while it runs
init_from.json   the run from which it started, and the copied weights
extended.json    extensions by `--extend`
not_finite.json  where a loss was not finite, until the run continues with other settings
"""

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jssl import config as config_lib
from jssl import data, files
from jssl.errors import UserError, WriteError
from jssl.files import write_json as write_json
from jssl.run import stores, versioned, versions
from jssl.run.writers import say
from jssl.types import PyTree

# Keys that may change between two starts of the same run: they do not affect the weights.
FREE = ("launch", "max_steps", "log.", "checkpoint.", "monitor.", "final.", "report.",
        "data.workers", "data.data_dir", "noisy_student.pseudo_labels", "noisy_student.teacher",
        "deit.teacher")  # fmt: skip
# 'skip' may be needed to resume, after 'stop' found a corrupt picture.
FREE_ON_RESUME = (*FREE, "data.on_error")
LENGTH = ("epochs:", "run.total_steps:")  # differences that `--extend` allows
CLASSES = "classes.json"
_FIX_CLASSES = (
    "Expected a list of class names. Copy it again, or delete it and start the run again, which "
    "writes it."
)


def make_folder(workdir: str | Path) -> Path:
    """Returns the folder of a run as an absolute path; creates it if it does not exist.

    Raises:
        UserError: not a folder, or one that cannot be written.
    """
    folder = local(workdir).absolute()
    check_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.check_folder(folder)
    except OSError as error:
        raise UserError(
            f"The workdir {folder} cannot be written ({error.strerror}). "
            "Type --workdir=DIR with a folder that you can write."
        ) from None
    return folder


# Characters that the checkpoint library interprets as patterns, or changes.
FOREIGN = "*?[\\"
BELOW = 300  # bytes that the longest path in a workdir adds to the workdir's own


def check_name(folder: Path) -> None:
    """Refuses a workdir whose name would make the first save fail.

    Raises:
        UserError: bytes that are not UTF-8, one of `FOREIGN`, or a path that is too long.
    """
    name, wrong = str(folder), ""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        wrong = "bytes that are not UTF-8"
    else:
        if found := [mark for mark in FOREIGN if mark in name]:
            wrong = f"the character {found[0]}"
        elif "\0" in name:
            wrong = "a zero byte"
        elif size + BELOW > 4096:
            wrong = f"{size} bytes, more than {4096 - BELOW}"
    if wrong:
        shown = name.encode(errors="backslashreplace").decode()
        raise UserError(
            f"The path of the workdir has {wrong}, which its checkpoints cannot have in theirs: "
            f"'{shown[:200]}'. Type another --workdir."
        )


def open_workdir(
    workdir: str | Path,
    config: ConfigDict,
    *,
    classes: tuple[str, ...] | None = None,
    longer: bool = False,
) -> Path:
    """Creates or re-opens the folder of a run and writes its config.

    Args:
        workdir: the folder.
        config: of the run.
        classes: names of the classes of its data, by number; None or () if there are none.
        longer: whether the length of the run may change, see `jssl.run.extend`.

    Raises:
        UserError: not a folder, one that cannot be written, or one of a run with another config
            or other classes; the message lists the differing keys.
    """
    folder = make_folder(workdir)
    path = folder / "config.json"
    new = config_lib.flatten(json.loads(config.to_json()))
    schema = versioned.check_schema(folder)
    if path.exists() and (old := _stored_config(folder)) is not None:
        old = config_lib.flatten(versioned.complete(old, path))
        free = (*FREE_ON_RESUME, *LENGTH) if longer else FREE_ON_RESUME
        rows = [r for r in config_lib.diff(old, new) if not r.startswith(free)]
        if rows:
            listed = "\n".join(f"  {row}" for row in rows)
            hint = ""
            if any(row.startswith(LENGTH) for row in rows):
                hint = " To train the same run for more epochs, add --extend."
            raise UserError(
                f"The workdir {folder} holds a run of another config:\n{listed}\n"
                f"Type another --workdir, or use the settings of that run.{hint}"
            )
    elif any(stores.checkpoints(folder).glob("*")):
        raise UserError(
            f"The workdir {folder} has checkpoints, but no config.json. Restore config.json from a "
            "copy, or type another --workdir."
        )
    data.check_same(
        classes,
        read_classes(folder),
        what=f"The data of this run and that of the run in {folder}",
        advice="Type another --workdir, or use the data with which the run started.",
    )
    if schema is not None and schema < 3 and any(stores.checkpoints(folder).glob("*")):
        say(
            f"NOTE {folder} was started by an earlier version of jssl: from here on its "
            "augmentation draws other random numbers, of the same distribution"
        )
    if jax.process_index() == 0:
        if classes:
            write_json(folder / CLASSES, list(classes))
        write_json(path, json.loads(config.to_json()))
        write_json(folder / "versions.json", {"schema": versioned.SCHEMA, **versions.collect()})
    return folder


def _stored_config(folder: Path) -> dict[str, Any] | None:
    """Returns the config of a workdir; moves a damaged one away if nothing was trained yet."""
    path = folder / "config.json"
    try:
        return read_json(path)
    except UserError:
        if any(stores.checkpoints(folder).glob("*")) or jax.process_count() > 1:
            raise
        place = set_aside(path)
        say(f"WARNING config.json is damaged, and nothing is trained yet; moved to {place}")
        return None


def read_json(path: Path, *, kind: type = dict) -> Any:
    """Reads one of the small JSON files of a workdir.

    Args:
        path: of the file, which exists.
        kind: of its content, dict or list.

    Raises:
        UserError: a file that is empty, truncated, not UTF-8, or has another content.
    """
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
        problem = "" if isinstance(content, kind) else f"it holds {text.strip()[:40]}"
    except UnicodeDecodeError:
        problem = "it is no UTF-8"
    except json.JSONDecodeError as error:
        problem = "it is empty" if not text.strip() else f"it is cut short or changed: {error}"
    except (OSError, RecursionError) as error:
        problem = f"it cannot be read: {error}"
    if problem:
        what = "an object" if kind is dict else "a list"
        raise UserError(
            f"{path} is damaged ({problem}): expected {what} in JSON. Restore it from a copy, or "
            "type another --workdir."
        )
    return content


def set_aside(path: Path) -> Path:
    """Renames a damaged file to a free name, `NAME.damaged`.

    Returns:
        Its new path.
    """
    for number in itertools.count(1):
        place = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not place.exists():
            break
    files.move(path, place)
    return place


def local(workdir: str | Path) -> Path:
    """Returns the path of a workdir, which must be in a file system.

    Raises:
        UserError: a URL such as gs://bucket/run, which would create a folder named 'gs:'.

    Example:
        >>> local('/mnt/bucket/run').as_posix()
        '/mnt/bucket/run'
    """
    scheme, mark, rest = str(workdir).partition("://")
    if not mark and not (scheme + "/").startswith(("gs:/", "s3:/")):
        return Path(workdir)
    rest = rest or scheme.partition(":/")[2]  # as pathlib shortens it
    raise UserError(
        f"'{workdir}' is a URL, where a folder is expected: only --workdir=gs://BUCKET/RUN and "
        "--workdir=s3://BUCKET/RUN of a command are taken. Mount the bucket (gcsfuse BUCKET "
        f"/mnt/BUCKET; launch/tpu_pod.sh does) and type --workdir=/mnt/{rest}."
    )


def read_config(workdir: str | Path) -> ConfigDict:
    """Reads the resolved config of a workdir, with the keys of this version.

    Raises:
        UserError: there is none, it is damaged, or a newer version wrote it.
    """
    path = local(workdir) / "config.json"
    stages = Path(workdir) / "stages.json"
    if stages.exists():
        names = [str(name) for name in read_json(stages, kind=list)]
        last = ["NAME", *(name for name in names if not name.endswith("labels"))][-1]
        raise UserError(
            f"{Path(workdir).absolute()} is the workdir of several stages, each with its own "
            f"network. Type for example --workdir={Path(workdir) / last}."
        )
    if not path.exists():
        raise UserError(
            f"{Path(workdir).absolute()} is not the workdir of a run: it has no config.json. "
            "Type the --workdir of `jssl train`."
        )
    versioned.check_schema(path.parent)
    return ConfigDict(versioned.complete(read_json(path), path)).lock()


def read_classes(workdir: str | Path) -> tuple[str, ...] | None:
    """Reads the names of the classes of a run's data, by number.

    Returns:
        The names; None if unknown: data without names, or a run of an older version.

    Raises:
        UserError: the file is damaged.
    """
    path = local(workdir) / CLASSES
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}. {_FIX_CLASSES}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"'{path}' holds no list of names. {_FIX_CLASSES}")
    return tuple(names)


# Errors of a disk that cannot be written.
_NO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Converts errors of the disk to a `WriteError` that names the last complete checkpoint.

    Raises:
        WriteError: instead of an error with a number in `_NO_WRITE`, or with its text, as some
            libraries raise it.
    """
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, UserError) else _disk_reason(error)
        if reason is None:
            raise
        names = [p.name for p in stores.checkpoints(folder).glob("*") if p.name.isdigit()]
        last = f"The last complete checkpoint is of step {max(map(int, names))}. " if names else ""
        raise WriteError(
            f"The run could not write to the disk under {folder}: {reason}. {last}When the disk "
            "can be written again, type the same command: the run resumes."
        ) from error


def _disk_reason(error: BaseException | None) -> str | None:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        for number in _NO_WRITE:
            text = os.strerror(number)
            if getattr(error, "errno", None) == number or text in str(error):
                return text
        error = error.__cause__ or error.__context__
    return None


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes uint8 [H,W,3] as a PNG, by the first process."""
    if jax.process_index() == 0:
        path.parent.mkdir(exist_ok=True)
        files.write_picture(path, Image.fromarray(picture))


def parameter_table(params: PyTree) -> str:
    """Formats a line for each parameter: path, shape, count; and the total.

    Example:
        >>> print(parameter_table({'dense': {'bias': np.zeros(3)}}))
        dense.bias  [3]  3
        total       3
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    rows = [
        (jax.tree_util.keystr(p, simple=True, separator="."), str(list(x.shape)), f"{x.size:,}")
        for p, x in flat
    ]
    total = sum(int(np.prod(x.shape)) for _, x in flat)
    name, shape = (max(len(r[i]) for r in rows) for i in (0, 1))
    lines = [f"{a:<{name}}  {b:<{shape}}  {c}" for a, b, c in rows]
    return "\n".join([*lines, f"{'total':<{name}}  {total:,}"])
