"""The folder of a run: whose it is, and what every run leaves in it.

config.json      the resolved config            versions.json   libraries, git, devices
classes.json     names of the classes, by number
parameters.txt   the table of parameters        metrics.jsonl   every logged number
checkpoints/     states                         result.json     the judged numbers at the end
pictures/        what a method shows, such as the reconstructions of a dVAE
lock.json        whose the folder is while a run goes on
init_from.json   the run that it began with, and which of its weights
extended.json    how often `--extend` made it longer
not_finite.json  where a loss was not finite, until the run goes on with other settings
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
from jssl.run import versioned, versions
from jssl.run.writers import say
from jssl.types import PyTree

# What may change between two starts of the same run: nothing here moves a weight.
FREE = ("launch", "max_steps", "log.", "checkpoint.", "monitor.", "final.", "data.workers",
        "data.data_dir", "noisy_student.pseudo_labels", "noisy_student.teacher",
        "deit.teacher")  # fmt: skip
# And what may because the run could not go on otherwise: 'stop' met a picture that 'skip' replaces.
FREE_ON_RESUME = (*FREE, "data.on_error")
LENGTH = ("epochs:", "run.total_steps:")  # rows of a difference that `--extend` allows
CLASSES = "classes.json"
_MEND_CLASSES = (
    "Expected the names of the classes, a list of text. Copy it again, or delete it and start the "
    "run again: it writes it."
)


def make_folder(workdir: str | Path) -> Path:
    """The folder of a run as an absolute path, made when it is not there.

    Raises:
        UserError: no folder, or one that cannot be written.
    """
    folder = local(workdir).absolute()
    check_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.check_folder(folder)
    except OSError as error:
        raise UserError(
            f"The workdir {folder} cannot be written ({error.strerror}). "
            "Type --workdir=DIR with a folder you may write."
        ) from None
    return folder


# What the checkpoint library takes for patterns of names, or turns into something else.
FOREIGN = "*?[\\"
BELOW = 300  # bytes that the longest name in a workdir needs beside the workdir's own


def check_name(folder: Path) -> None:
    """Refuses a workdir whose name would end the run at its first save.

    Raises:
        UserError: bytes that are no UTF-8, one of `FOREIGN`, or a path that is too long.
    """
    name, wrong = str(folder), ""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        wrong = "bytes that are no UTF-8"
    else:
        if found := [mark for mark in FOREIGN if mark in name]:
            wrong = f"the sign {found[0]}"
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
    """Makes or re-opens the folder of a run and writes its config.

    Args:
        workdir: the folder.
        config: of the run.
        classes: names of the classes of its data, by number; None or () where there are none.
        longer: whether the length of the run may have changed, see `jssl.run.extend`.

    Raises:
        UserError: no folder, one that cannot be written, or one of a run of another config or
            on data of other classes; the message lists the differing keys.
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
            more = ""
            if any(row.startswith(LENGTH) for row in rows):
                more = " To train the same run for more epochs, add --extend."
            raise UserError(
                f"The workdir {folder} holds a run of another config:\n{listed}\n"
                f"Type another --workdir, or give the settings of that run.{more}"
            )
    elif any(folder.glob("checkpoints/*")):
        raise UserError(
            f"The workdir {folder} holds checkpoints, but no config.json to tell whose they are. "
            "Copy it back to its place, or type another --workdir."
        )
    data.check_same(
        classes,
        read_classes(folder),
        what=f"The data of this run and that of the run in {folder}",
        advice="Type another --workdir, or give the data that the run began with.",
    )
    if schema is not None and schema < 3 and any(folder.glob("checkpoints/*")):
        say(
            f"NOTE {folder} was begun by an earlier version of jssl: from here on its augmentation "
            "draws other random numbers, of the same distribution"
        )
    if jax.process_index() == 0:
        if classes:
            write_json(folder / CLASSES, list(classes))
        write_json(path, json.loads(config.to_json()))
        write_json(folder / "versions.json", {"schema": versioned.SCHEMA, **versions.collect()})
    return folder


def _stored_config(folder: Path) -> dict[str, Any] | None:
    """The config of a workdir; one that is damaged is set aside where nothing was trained yet."""
    path = folder / "config.json"
    try:
        return read_json(path)
    except UserError:
        if any(folder.glob("checkpoints/*")) or jax.process_count() > 1:
            raise
        aside = set_aside(path)
        say(f"WARNING config.json is damaged, and nothing is trained yet; moved to {aside}")
        return None


def read_json(path: Path, *, kind: type = dict) -> Any:
    """Reads one of the small JSON files of a workdir.

    Args:
        path: of the file, which exists.
        kind: of what it holds, dict or list.

    Raises:
        UserError: a file that is empty, cut short, no UTF-8, or holds something else.
    """
    try:
        text = path.read_bytes().decode()
        found = json.loads(text)
        problem = "" if isinstance(found, kind) else f"it holds {text.strip()[:40]}"
    except UnicodeDecodeError:
        problem = "it is no UTF-8"
    except json.JSONDecodeError as error:
        problem = "it is empty" if not text.strip() else f"it is cut short or changed: {error}"
    except (OSError, RecursionError) as error:
        problem = f"it cannot be read: {error}"
    if problem:
        what = "an object" if kind is dict else "a list"
        raise UserError(
            f"{path} is damaged ({problem}): expected {what} in JSON. Copy it back to its place "
            "from where you have it, or type another --workdir."
        )
    return found


def set_aside(path: Path) -> Path:
    """Moves a damaged file to a free name beside it, `NAME.damaged`.

    Returns:
        Where it lies now.
    """
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            break
    files.move(path, aside)
    return aside


def local(workdir: str | Path) -> Path:
    """The path of a workdir, which is a folder of a file system.

    Raises:
        UserError: an address such as gs://bucket/run, which would be a folder named 'gs:' here.

    Example:
        >>> local('/mnt/bucket/run').as_posix()
        '/mnt/bucket/run'
    """
    scheme, mark, rest = str(workdir).partition("://")
    if not mark and not (scheme + "/").startswith(("gs:/", "s3:/")):
        return Path(workdir)
    rest = rest or scheme.partition(":/")[2]  # as pathlib shortens it
    raise UserError(
        f"'{workdir}' is an address, and a workdir is a folder that all processes see. Mount the "
        f"bucket (gcsfuse BUCKET /mnt/BUCKET; launch/tpu_pod.sh does) and type "
        f"--workdir=/mnt/{rest}."
    )


def read_config(workdir: str | Path) -> ConfigDict:
    """The resolved config that a run left in its workdir, with the keys of this version.

    Raises:
        UserError: there is none, it is damaged, or a newer version wrote it.
    """
    path = local(workdir) / "config.json"
    stages = Path(workdir) / "stages.json"
    if stages.exists():
        names = [str(name) for name in read_json(stages, kind=list)]
        last = ["NAME", *(name for name in names if not name.endswith("labels"))][-1]
        raise UserError(
            f"{Path(workdir).absolute()} is the workdir of several stages, each with a network of "
            f"its own. Type for example --workdir={Path(workdir) / last}."
        )
    if not path.exists():
        raise UserError(
            f"{Path(workdir).absolute()} is not the workdir of a run: it has no config.json. "
            "Type the --workdir that `jssl train` was given."
        )
    versioned.check_schema(path.parent)
    return ConfigDict(versioned.complete(read_json(path), path)).lock()


def read_classes(workdir: str | Path) -> tuple[str, ...] | None:
    """Names of the classes that a run was trained or probed with, by number.

    Returns:
        None where they are not known: data without names, or a run of an older version.

    Raises:
        UserError: the file is damaged.
    """
    path = local(workdir) / CLASSES
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}. {_MEND_CLASSES}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"'{path}' holds no list of names. {_MEND_CLASSES}")
    return tuple(names)


# What a disk says when it cannot take what is written.
_NO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Says in plain words that the disk did not take what was written, and what is still whole.

    Raises:
        WriteError: in place of an error that has one of the disk's reasons, also where a library
            tells it as text.
    """
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, UserError) else _disk_reason(error)
        if reason is None:
            raise
        names = [p.name for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
        whole = f"The last whole checkpoint is of step {max(map(int, names))}. " if names else ""
        raise WriteError(
            f"The disk did not take what the run wrote under {folder}: {reason}. {whole}When it "
            "can be written again, type the same command: the run resumes."
        ) from error


def _disk_reason(error: BaseException | None) -> str | None:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        for number in _NO_WRITE:
            words = os.strerror(number)
            if getattr(error, "errno", None) == number or words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes uint8 [H,W,3] as a PNG, by the first process."""
    if jax.process_index() == 0:
        path.parent.mkdir(exist_ok=True)
        files.write_picture(path, Image.fromarray(picture))


def parameter_table(params: PyTree) -> str:
    """A line for each parameter: path, shape, count; and the sum.

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
