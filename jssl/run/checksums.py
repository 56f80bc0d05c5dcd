"""Checksums of the files of a checkpoint, written with it and compared before it is read.

Not all file formats of a checkpoint detect damage: one flipped bit in an array is read as another
number. So every checkpoint has `SHA256SUMS`, written before its folder is renamed;
`sha256sum -c SHA256SUMS` in its folder compares by hand.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jssl import files
from jssl.regular import MAX_LIST, FileError, read_file
from jssl.types import PyTree

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Writes the checksums of all files in the sub-folders of a checkpoint, its items.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / 'state').mkdir()
        >>> _ = (folder / 'state' / 'a').write_text('abc')
        >>> write_sums(folder)
        >>> (folder / SUMS).read_text()[:8], damage(folder)
        ('ba7816bf', [])
        >>> _ = (folder / 'state' / 'a').write_text('abd')
        >>> damage(folder)
        ['state/a is not as it was written']
    """
    lines = [f"{file_sum(folder / name)}  {name}\n" for name in _names(folder)]
    text = "".join(lines)
    if isinstance(folder, Path):
        files.write_text(folder / SUMS, text)
    else:
        (folder / SUMS).write_text(text)


def has_sums(folder: Path) -> bool:
    """Whether a checkpoint has checksums."""
    return (folder / SUMS).is_file()


def is_empty(folder: Path) -> bool:
    """Whether a folder and its sub-folders have no file."""
    if not isinstance(folder, Path):
        return False  # a bucket has no empty folders
    return folder.is_dir() and not any(p.is_file() for p in folder.rglob("*"))


def damage(folder: Path) -> list[str]:
    """Returns the problems with the files of a checkpoint, a line for each.

    A checkpoint without checksums counts as damaged: an interrupted copy has none.
    """
    if not folder.is_dir():
        return ["it is not a folder"]
    if is_empty(folder):
        return ["it is an empty folder"]
    if not has_sums(folder):
        return [f"it has no {SUMS}, like an interrupted copy"]
    try:
        path = folder / SUMS
        data = read_file(path, MAX_LIST) if isinstance(path, Path) else path.read_bytes()
        text = data.decode(errors="replace")
    except FileError as error:
        return [f"{SUMS} {error}"]
    problems, listed, names = [], set(), _names(folder)
    existing = set(names)
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        listed.add(name)
        # An untrusted list may name files outside the checkpoint, such as /dev/zero.
        if name not in existing:
            outside = "it is not a file of the checkpoint"
            exists = isinstance(path, Path) and os.path.lexists(path)
            reason = outside if exists else os.strerror(errno.ENOENT)
            problems.append(f"{name[:200]} cannot be read: {reason}")
            continue
        try:
            if file_sum(path) != digest:
                problems.append(f"{name} is not as it was written")
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
    # A truncated or changed list lacks a file.
    return problems + [f"{name} has no checksum" for name in names if name not in listed]


def _names(folder: Path) -> list[str]:
    # Files outside the items belong to the checkpoint library, which still adds some.
    if not isinstance(folder, Path):
        below = [(str(top), files) for item in folder.iterdir() if item.is_dir()
                 for top, _, files in item.walk()]  # fmt: skip
        paths = [f"{top}/{name}" for top, names in below for name in names if name]
        mark = f"/{folder.name}/"  # with or without the scheme, as the client names it
        start = folder.as_posix().partition("://")[2] + "/"
        return sorted(path.partition(start)[2] for path in paths if mark in path)
    return sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/**/*") if p.is_file())


def file_sum(path: Path) -> str:
    """Returns the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(tree: PyTree) -> str:
    """Computes the SHA-256 of all leaves in the order of their paths: path, dtype, shape, bytes.

    Args:
        tree: pytree of arrays or numbers; typed PRNG keys are hashed by their data.

    Returns:
        64 hexadecimal digits, the same on every machine for bit-equal trees.

    Example:
        >>> one = tree_hash({'b': np.zeros(2), 'a': np.ones(1)})
        >>> one == tree_hash({'a': np.ones(1), 'b': np.zeros(2)}), len(one)
        (True, 64)
        >>> one == tree_hash({'a': np.ones(1), 'b': np.zeros((2, 1))})
        False
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in leaves]
    for path, leaf in sorted(named, key=lambda pair: pair[0]):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype.str} {np.shape(leaf)} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def backbone_hash(state: Any) -> str:
    """Computes the `tree_hash` of the network of a state: `params` and `batch_stats`."""
    return tree_hash({"params": state.params, "batch_stats": state.batch_stats})
