"""What the files of a checkpoint were when it was written, to be compared before it is read.

The formats below a checkpoint do not all check what they read: one flipped bit in an array comes
back as another number. So every checkpoint carries `SHA256SUMS`, written before it gets its name;
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
    """Writes the sums of all files in the sub-folders of a checkpoint, its items.

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
    files.write_text(folder / SUMS, "".join(lines))


def has_sums(folder: Path) -> bool:
    """Whether a checkpoint carries sums."""
    return (folder / SUMS).is_file()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds no file at all, also not below."""
    return folder.is_dir() and not any(p.is_file() for p in folder.rglob("*"))


def damage(folder: Path) -> list[str]:
    """What is wrong with the files of a checkpoint, a line for each.

    One without sums is not called whole: a copy that was interrupted has none, as they come last.
    """
    if not folder.is_dir():
        return ["it is no folder"]
    if is_empty(folder):
        return ["it is an empty folder"]
    if not has_sums(folder):
        return [f"it has no {SUMS}, as a copy that was interrupted"]
    try:
        text = read_file(folder / SUMS, MAX_LIST).decode(errors="replace")
    except FileError as error:
        return [f"{SUMS} {error}"]
    found, listed, own = [], set(), _names(folder)
    inside = set(own)
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        listed.add(name)
        # A list from elsewhere may name what is no file of the checkpoint, such as /dev/zero.
        if name not in inside:
            own_words = "it is no file of the checkpoint"
            what = own_words if os.path.lexists(path) else os.strerror(errno.ENOENT)
            found.append(f"{name[:200]} cannot be read: {what}")
            continue
        try:
            if file_sum(path) != digest:
                found.append(f"{name} is not as it was written")
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror}")
    # Sums that were cut short or changed themselves lack a file.
    return found + [f"{name} has no sum" for name in own if name not in listed]


def _names(folder: Path) -> list[str]:
    # Files beside the items are the checkpoint library's own, which it still adds to.
    return sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/**/*") if p.is_file())


def file_sum(path: Path) -> str:
    """Returns the sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(tree: PyTree) -> str:
    """SHA-256 over all leaves in the order of their paths: path, dtype, shape and bytes.

    Args:
        tree: pytree of arrays or numbers; typed PRNG keys count by their data.

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
    """`tree_hash` of what a network is made of: `params` and `batch_stats` of a state."""
    return tree_hash({"params": state.params, "batch_stats": state.batch_stats})
