"""Writes files as `torch.save` does, without torch: both containers, and damaged ones.

`tests/reference/record_torch_files.py` shows that torch reads them.
"""

import io
import pickle
import zipfile

import numpy as np

TYPES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Global:
    """A name in a pickle, `module.name`."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):
    """Writes arrays as torch's tensors, and remembers their storages."""

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, {}

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, np.ndarray):
            self.tensor(obj)
        else:
            super().save(obj, save_persistent_id)

    def tensor(self, array):
        key = str(len(self.storages))
        self.storages[key] = array.copy(order="C")
        strides = tuple(s // array.itemsize for s in self.storages[key].strides)
        pid = ("storage", _Global("torch", TYPES[array.dtype.name]), key, "cpu", array.size)
        self.write(pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK)
        self.save(pid if not self.legacy else (*pid, None))
        self.write(pickle.BINPERSID)
        for value in (0, array.shape, strides, False):
            self.save(value)
        self.write(pickle.EMPTY_DICT + pickle.TUPLE + pickle.REDUCE)


def zip_file(path, obj):
    """As torch has written since 1.6."""
    content = io.BytesIO()
    pickler = _Pickler(content, legacy=False)
    pickler.dump(obj)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def legacy_file(path, obj):
    """As torch wrote before 1.6."""
    system = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {}}
    content = io.BytesIO()
    pickler = _Pickler(content, legacy=True)
    pickler.dump(obj)
    with open(path, "wb") as file:
        for value in (MAGIC, VERSION, system):
            pickle.dump(value, file, protocol=2)
        file.write(content.getvalue())
        pickle.dump(sorted(pickler.storages), file, protocol=2)
        for key in sorted(pickler.storages):
            array = pickler.storages[key]
            file.write(array.size.to_bytes(8, "little") + array.tobytes())
