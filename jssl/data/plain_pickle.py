"""Reads a pickle of plain values without running code.

A pickle is a program: it may name any function and call it. Here it may only name a few numpy
functions and the encoders of bytes for Python 2, each replaced by a function of this file; any
other name is refused before it is imported. Lists, tuples, dicts, strings and numbers need no
names.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jssl.errors import UserError
from jssl.regular import FileError, read_file

MAX_PICKLE = 2**30  # bytes of a file
# Allowed dtypes: bool, int, float, complex, fixed-width bytes and text; no objects or structures.
_PLAIN = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d+")
_SCALARS = (bool, int, float, complex, str, bytes, bytearray, type(None), np.generic)


class _Class:
    """Stand-in for the class numpy.ndarray."""

    def __call__(self, *values: Any) -> None:
        raise pickle.UnpicklingError("an array with another constructor")


class _DType:
    """Stand-in for numpy.dtype: a name, then its byte order; stricter than numpy's own."""

    def __init__(self, name: Any, *options: Any):
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not _PLAIN.fullmatch(text):
            raise pickle.UnpicklingError(f"an array of {name!r}")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
        sizes, flags = (-1, self.value.itemsize), ((), (0,), (8,))  # 8: text begins as zeros
        plain = order in ("<", ">", "=", "|") and not any(state[2:5]) and state[5] in sizes
        if not plain or tuple(state[7:]) not in flags:
            raise pickle.UnpicklingError(f"an array of {self.value} with {state!r}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stand-in for an array: first blank, then given its content."""

    def __init__(self, kind: Any, shape: Any = (0,), typecode: Any = b"b"):
        if not isinstance(kind, _Class):
            raise pickle.UnpicklingError("an array of another class")
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]  # the first of five is a version
        array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")
        # The native byte order, as in numpy (but not in `_from_buffer`).
        self.value = array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError(f"an array of {dtype!r}")
    data = raw.encode("latin-1") if isinstance(raw, str) else raw  # of Python 2
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError(f"an array whose content is a {type(raw).__name__}")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of the shape {shape!r}")
    expected = math.prod(shape) * dtype.value.itemsize
    if len(data) != expected or order not in ("C", "F"):
        raise pickle.UnpicklingError(
            f"an array {list(shape)} of {dtype.value} in {len(data)} bytes, not {expected}"
        )
    # A copy, so that it owns its memory and is writeable.
    return np.ndarray(shape, dtype.value, data, order=order).copy(order="K")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> _Array:
    if not isinstance(shape, tuple):
        shape = (shape,)
    result = _Array(_Class())
    # 'K': `axes` is the order of the axes in memory.
    array = _from_bytes(data, dtype, shape, "C" if order == "K" else order)
    result.value = array if order != "K" or axes is None else array.transpose(axes)
    return result


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _from_bytes(raw, dtype, (), "C")[()]


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`: bytes that Python 3 wrote for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


def _no_bytes(*values: Any) -> bytes:
    """Stand-in for `bytes`: empty bytes."""
    if values:
        raise pickle.UnpicklingError(f"bytes of {values!r}")
    return b""


def _byte_array(*values: Any) -> bytearray:
    """Stand-in for `bytearray`: of bytes, or of text and its encoding."""
    return bytearray(_bytes(*values) if len(values) == 2 else values[0] if values else b"")


_NAMES: dict[tuple[str, str], Any] = {("numpy", "dtype"): _DType}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NAMES |= {(_module, "_reconstruct"): _Array, (_module, "scalar"): _scalar}
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _NAMES[_module, "_frombuffer"] = _from_buffer
_NAMES["_codecs", "encode"] = _bytes
for _module in ("__builtin__", "builtins"):
    _NAMES |= {(_module, "bytes"): _no_bytes, (_module, "bytearray"): _byte_array}
    _NAMES |= {(_module, kind.__name__): kind for kind in (complex, set, frozenset)}


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, names: Callable[[str, str], Any]):
        super().__init__(file, encoding="latin-1")
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if (other := self._names(module, name)) is not None:
            return other
        if (module, name) == ("numpy", "ndarray"):
            return _Class()
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        function = _NAMES[module, name]
        # A new function each time, as a pickle may set its attributes.
        return lambda *values: function(*values)


def _check(data: bytes) -> None:
    """Raises UnpicklingError for a memo index larger than the pickle.

    The reader allocates the memo up to its largest index: nine bytes may ask for gigabytes.
    """
    for operation, argument, _ in pickletools.genops(data):  # refuses text that ends too early
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise pickle.UnpicklingError(f"the memo index {argument} in {len(data)} bytes")


def _plain(value: Any, made: dict[int, Any]) -> Any:
    """Replaces the stand-ins in a value by arrays; raises UnpicklingError for other types."""
    if isinstance(value, _Array):
        if value.value is None:
            raise pickle.UnpicklingError("an array without content")
        return value.value
    if isinstance(value, _DType):
        return value.value
    if type(value) in _SCALARS or isinstance(value, np.generic):
        return value
    if id(value) in made:
        return made[id(value)]
    if type(value) is list:
        made[id(value)] = value
        value[:] = [_plain(item, made) for item in value]
    elif type(value) is dict:
        made[id(value)] = value
        items = {_plain(key, made): _plain(item, made) for key, item in value.items()}
        value.clear()
        value.update(items)
    elif type(value) in (tuple, set, frozenset):
        made[id(value)] = type(value)(_plain(item, made) for item in value)
    else:
        raise pickle.UnpicklingError(f"a value of type {type(value).__name__}")
    return made[id(value)]


def make_array(function: Any, args: Any, state: Any, *_: Any) -> Any:
    """Stand-in for a function that makes an array of numpy's function, its arguments and state."""
    if not callable(function) or not isinstance(args, tuple):
        raise pickle.UnpicklingError("an array with another constructor")
    array = function(*args)
    if not isinstance(array, _Array):
        raise pickle.UnpicklingError("an array with another constructor")
    array.__setstate__(state)
    return array


def read_plain_pickle(
    path: str | Path,
    names: Callable[[str, str], Any] = lambda module, name: None,
    max_bytes: int = MAX_PICKLE,
) -> Any:
    """Reads a pickle of lists, tuples, dicts, text, numbers and numpy arrays of these.

    Args:
        path: of the file; any protocol, also of Python 2.
        names: `(module, name) -> stand-in` for other names that the pickle may use; None: refused.
            A stand-in returns plain values.
        max_bytes: of the file.

    Returns:
        The pickled value. Text of Python 2 is read as latin-1.

    Raises:
        UserError: no such file, not a pickle, or other content; nothing in it has been run.

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
        data = read_file(path, max_bytes)
        _check(data)
        return _plain(_Reader(io.BytesIO(data), names).load(), {})
    except FileError as error:
        raise UserError(f"'{path}' {error}.") from error
    except Exception as error:  # a damaged pickle raises many kinds
        raise UserError(
            f"'{path}' is not a pickle of plain values: found {error}. Expected lists, dicts, "
            "text, numbers and numpy arrays only. Nothing in it was run: fetch the file again "
            "from where its authors publish it."
        ) from error
