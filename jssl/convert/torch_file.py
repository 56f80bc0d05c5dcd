"""Reads the files of `torch.save` without torch, and without letting their pickle run anything.

Two containers hold the same pickle. Since torch 1.6 it is a zip archive with `data.pkl` and a file
for each storage; before, five pickles follow each other, and the storages follow them. A tensor is
a window into a storage: an offset, a shape and strides. Its values are read when asked for.
"""

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from jssl.errors import UserError
from jssl.regular import FileError, check_regular

MAX_BYTES = 2**36  # of a file: EfficientNet-L2 has 2 GB, SimCLRv2's largest net 3 GB
MAX_MODULES = 10_000  # of a pickled network
MAX_PICKLE = 2**26  # of the pickle in it, which holds names and shapes
DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Storage(NamedTuple):
    """A one-dimensional array in a file: `read()` returns its bytes."""

    dtype: np.dtype
    size: int
    read: Callable[[], bytes]


class Tensor(NamedTuple):
    """A window into a storage.

    Attributes:
        storage: where its values lie.
        offset: of its first value, in values.
        shape, strides: in values.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The type of its values."""
        return self.storage.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Reads the values from the file."""
        values = np.frombuffer(self.storage.read(), self.dtype)
        bytes_ = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, bytes_)
        return np.array(view, dtype, order="C")


class Bag(dict):
    """Stands for an object of a class that is not imported: it only holds the object's state."""

    def __init__(self, *values: Any):
        super().__init__()  # what a class would make of the values is not known

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.update(part)


class _Dict(dict):
    """Stands for OrderedDict; torch sets an attribute of versions, which is left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _StorageType(NamedTuple):
    name: str


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    tuples = isinstance(shape, tuple) and isinstance(strides, tuple)
    if not isinstance(storage, Storage) or not tuples or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor that is no window into a storage")
    if not all(map(_count, (offset, *shape, *strides))):
        raise pickle.UnpicklingError(f"a tensor of shape {shape!r} with strides {strides!r}")
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and (last >= storage.size or size > storage.size):
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(shape)} in a storage of {storage.size} values"
        )
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "device"): Bag,
    ("torch", "Size"): lambda values=(): tuple(values),
    ("argparse", "Namespace"): Bag,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
}
# Classes of the dVAE's files, whose modules are pickled whole.
_MODULES = ("dall_e.", "torch.nn.modules.")


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storage: Callable[[Any], Storage]):
        super().__init__(file, encoding="latin-1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return _StorageType(name)
        if module.startswith(_MODULES):
            return type(name, (Bag,), {})
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        made = _NAMES[module, name]
        # A new function each time: a pickle may set attributes of what it is given.
        return lambda *values: made(*values)

    def persistent_load(self, pid: Any) -> Any:
        # A class of a module that was pickled whole, with its source, which is not looked at.
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        good = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
        if not good or not isinstance(pid[1], _StorageType) or not _count(pid[4]):
            raise pickle.UnpicklingError(f"the reference {pid!r:.80}")
        if len(pid) == 6 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a part of another")
        return self._storage(pid)


def _load(data: bytes, storage: Callable[[Any], Storage]) -> Any:
    """Reads one pickle; refuses one that asks for memory which its length does not explain."""
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise pickle.UnpicklingError(f"the number {argument} of a value in {len(data)} bytes")
    return _Reader(io.BytesIO(data), storage).load()


def _no_storage(pid: Any) -> Storage:
    raise pickle.UnpicklingError("a tensor before the object")


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"{len(pickles)} files data.pkl in the archive")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise pickle.UnpicklingError("compressed files in the archive")
        root = pickles[0].removesuffix("data.pkl")
        if entries[pickles[0]].file_size > MAX_PICKLE:
            raise pickle.UnpicklingError(f"a pickle of more than {MAX_PICKLE:,} bytes")
        order = f"{root}byteorder"
        if order in entries and archive.read(order).strip() != b"little":
            raise pickle.UnpicklingError("values with the most significant byte first")
        data = archive.read(pickles[0])

    def storage(pid: Any) -> Storage:
        dtype, size, name = np.dtype(DTYPES[pid[1].name]), pid[4], f"{root}data/{pid[2]}"
        if name not in entries or entries[name].file_size != size * dtype.itemsize:
            raise pickle.UnpicklingError(f"a storage of {size} {dtype} in '{name}'")

        def read() -> bytes:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)  # compares its checksum

        return Storage(dtype, size, read)

    return _load(data, storage)


def _next_pickle(file: BinaryIO) -> bytes:
    start = file.tell()
    for _ in pickletools.genops(file):
        if file.tell() - start > MAX_PICKLE:
            raise pickle.UnpicklingError(f"a pickle of more than {MAX_PICKLE:,} bytes")
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


def _read_legacy(path: Path) -> Any:
    places: dict[str, int] = {}  # key of a storage -> where its values begin
    sizes: dict[str, tuple[int, int]] = {}  # key -> values, bytes of one

    def storage(pid: Any) -> Storage:
        dtype, size, key = np.dtype(DTYPES[pid[1].name]), pid[4], str(pid[2])
        if sizes.setdefault(key, (size, dtype.itemsize)) != (size, dtype.itemsize):
            raise pickle.UnpicklingError(f"two sizes of the storage '{key}'")

        def read() -> bytes:
            with open(path, "rb") as file:
                file.seek(places[key])
                return file.read(size * dtype.itemsize)

        return Storage(dtype, size, read)

    with open(path, "rb") as file:
        for _ in range(3):  # the magic number, the version, the machine
            _load(_next_pickle(file), _no_storage)
        loaded = _load(_next_pickle(file), storage)
        keys = _load(_next_pickle(file), _no_storage)
        if not isinstance(keys, list) or set(map(str, keys)) != set(sizes):
            raise pickle.UnpicklingError("a list of storages that are not those of the tensors")
        end = os.fstat(file.fileno()).st_size
        for key in map(str, keys):
            size, width = sizes[key]
            if file.read(8) != size.to_bytes(8, "little"):
                raise pickle.UnpicklingError(f"another size of the storage '{key}' than stated")
            places[key] = file.tell()
            if places[key] + size * width > end:
                raise pickle.UnpicklingError(f"an end within the storage '{key}'")
            file.seek(size * width, os.SEEK_CUR)
    return loaded


def read_torch(path: str | Path) -> Any:
    """Reads what `torch.save` wrote: dicts, lists, numbers, text and tensors.

    Args:
        path: of the file, of either container.

    Returns:
        The object, with `Tensor`s that read their values when `np.asarray` is called, and a `Bag`
        in place of an object of any class.

    Raises:
        UserError: no such file, another container, or a pickle that names anything else; nothing
            in it has been run by then.

    Reference: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.
    """
    path = Path(path)
    try:
        check_regular(os.stat(path), MAX_BYTES)
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except FileError as error:
        raise UserError(f"'{path}' {error}.") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged pickle raises many kinds
        raise UserError(
            f"'{path}' is not a file of torch.save that jssl reads: found {error}. Expected "
            "tensors, dicts, lists, text and numbers. Nothing in it was run: fetch the file again "
            "from where its authors publish it."
        ) from error


STATE_DICTS = ("state_dict", "model", "module")  # keys under which a file has its tensors


def state_dict_key(loaded: Any) -> str | None:
    """The key of a loaded file under which its tensors lie; None if they lie at its top."""
    for key in STATE_DICTS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            return key
    return None


def state_dict(loaded: Any) -> dict:
    """The tensors of a loaded file by name: of a bare state dict, or of one under a key.

    Example:
        >>> state_dict({'epoch': 3, 'state_dict': {'fc.bias': np.zeros(2)}})
        {'fc.bias': array([0., 0.])}
    """
    key = state_dict_key(loaded)
    if key is not None:
        return dict(loaded[key])
    return dict(loaded) if isinstance(loaded, Mapping) else {}


def module_tensors(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """The parameters and buffers of a pickled torch module by name.

    Args:
        module: a `Bag` with `_parameters` and `_modules`; anything else has none.
        prefix: of the names.

    Raises:
        UserError: more modules than any network has, as in one that holds itself.
    """
    tensors: dict[str, Tensor] = {}
    waiting, count = [(prefix, module)], 0
    while waiting:
        start, part = waiting.pop()
        count += 1
        if count > MAX_MODULES:
            raise UserError(f"The file has more than {MAX_MODULES:,} modules: expected a network.")
        for kind in ("_parameters", "_buffers", "_modules"):
            own = part.get(kind) if isinstance(part, Mapping) else None
            for name, value in own.items() if isinstance(own, Mapping) else ():
                if kind == "_modules":
                    waiting.append((f"{start}{name}.", value))
                elif isinstance(value, Tensor):
                    tensors[f"{start}{name}"] = value
    return tensors
