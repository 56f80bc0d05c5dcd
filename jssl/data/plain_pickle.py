"""A pickle of plain values, read without letting it run anything.

A pickle is a program: it may name any function and call it. Here it may name a few
things of numpy, and how Python 2 has bytes, each of which stands for a function of this file;
anything else is refused before it is imported. Lists, tuples, dicts, strings and numbers need no
names.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from jssl.errors import UserError

_KINDS = "biufSU"  # of arrays: bool, int, float and text; no objects


_ARRAY = "numpy's ndarray"  # stands for the class where a pickle names it


def _blank(kind: Any, shape: Any = (0,), typecode: Any = b"b") -> np.ndarray:
    """An empty array, whose content the pickle then sets."""
    if kind is not _ARRAY:
        raise pickle.UnpicklingError("an array of a class of its own")
    return np.empty(0, np.int8)


def _dtype(name: Any, *options: Any) -> np.dtype:
    text = name.decode("ascii") if isinstance(name, bytes) else name
    if not isinstance(text, str) or np.dtype(text).kind not in _KINDS:
        raise pickle.UnpicklingError(f"an array of {name!r}")
    return np.dtype(text)


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind not in _KINDS:
        raise pickle.UnpicklingError(f"a number of {dtype!r}")
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(data, dtype, count=1)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.kind not in _KINDS:
        raise pickle.UnpicklingError(f"an array of {dtype!r}")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


def _no_bytes(*values: Any) -> bytes:
    """How it writes none of them."""
    if values:
        raise pickle.UnpicklingError(f"bytes of {values!r}")
    return b""


_NAMES: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _ARRAY, ("numpy", "dtype"): _dtype}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NAMES |= {(_module, "_reconstruct"): _blank, (_module, "scalar"): _scalar}
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _NAMES[_module, "_frombuffer"] = _from_buffer
_NAMES["_codecs", "encode"] = _bytes
_NAMES["__builtin__", "bytes"] = _NAMES["builtins", "bytes"] = _no_bytes


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        found = _NAMES[module, name]
        # A new function each time: a pickle may set attributes of what it is given.
        return (lambda *values: found(*values)) if callable(found) else found


def read_plain_pickle(path: str | Path) -> Any:
    """Reads a pickle of lists, tuples, dicts, text, numbers and numpy arrays of these.

    Args:
        path: of the file; any protocol, also of Python 2.

    Returns:
        What was pickled. Text of Python 2 is read as latin-1.

    Raises:
        UserError: no such file, not a pickle, or one that holds anything else; nothing in it has
            been run by then.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(pickle.dumps({'names': ['a'], 'rows': np.arange(2)}))
        ...     file.flush()
        ...     read_plain_pickle(file.name)
        {'names': ['a'], 'rows': array([0, 1])}

    Reference: https://docs.python.org/3/library/pickle.html, Restricting Globals.
    """
    try:
        return _Reader(io.BytesIO(Path(path).read_bytes()), encoding="latin-1").load()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle raises many kinds
        raise UserError(
            f"'{path}' is not a pickle of plain values: found {error}. Expected lists, dicts, "
            "text, numbers and numpy arrays only. Nothing in it was run: fetch the file again "
            "from where its authors publish it."
        ) from error
