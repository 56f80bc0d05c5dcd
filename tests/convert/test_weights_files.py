"""Weights files: what is read, and what is refused before anything of it runs or is allocated."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from convert.torch_files import legacy_file, zip_file
from safetensors.numpy import save_file

from jssl.convert import read_torch
from jssl.convert.containers import read_weights
from jssl.errors import UserError

WRITERS = {"zip": zip_file, "legacy": legacy_file}
VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


class Runs:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("key", ["", "state_dict", "model"])
def test_the_tensors_of_a_torch_file(tmp_path, writer, key):
    tensors = {"a.weight": VALUES, "b": np.array(7), "h": VALUES.astype(np.float16)}
    WRITERS[writer](tmp_path / "x.pth", {key: tensors, "epoch": 3} if key else tensors)
    weights = read_weights(tmp_path / "x.pth")
    assert weights.container == "torch" and list(weights.tensors) == list(tensors)
    for name, value in tensors.items():
        read = np.asarray(weights.tensors[name])
        assert read.dtype == value.dtype
        np.testing.assert_array_equal(read, value)
    assert weights.other == ({"epoch": 3} if key else {})


def tensor_pickle(shape, strides, *, offset=0, size=24, key="0", kind="FloatStorage"):
    """`data.pkl` of {'x': a tensor with these strides}, written by hand."""
    out = io.BytesIO()
    out.write(b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n(")
    out.write(b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX")
    out.write(struct.pack("<I", len(key)) + key.encode() + b"X\x03\x00\x00\x00cpuJ")
    out.write(struct.pack("<i", size) + b"tQJ" + struct.pack("<i", offset))
    for numbers in (shape, strides):
        out.write(b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t")
    out.write(b"\x89}tRs.")
    return out.getvalue()


def archive(path, data, storage=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/data/0", VALUES.tobytes() if storage is None else storage)
    return path


def test_a_view_is_read_as_torch_reads_it(tmp_path):
    """The transpose [4,3] of the second row of [2,3,4], without a copy in the file."""
    path = archive(tmp_path / "x.pth", tensor_pickle((4, 3), (1, 4), offset=12))
    np.testing.assert_array_equal(np.asarray(read_torch(path)["x"]), VALUES[1].T)


REFUSED = {
    "past its storage": tensor_pickle((2, 3, 5), (12, 4, 1)),
    "an offset past it": tensor_pickle((2,), (1,), offset=23),
    "a negative stride": tensor_pickle((2,), (-1,)),
    "a repeated value": tensor_pickle((2**20, 2**10), (0, 0)),
    "another size": tensor_pickle((2,), (1,), size=2**30),
    "another storage": tensor_pickle((2,), (1,), key="../../etc/passwd"),
    "an unknown type": tensor_pickle((2,), (1,), kind="FooStorage"),
    "a large memo": b"\x80\x02r\xff\xff\xff\xff.",
    "text": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, case):
    with pytest.raises(UserError, match="x.pth' is not a file of torch.save that jssl reads"):
        read_torch(archive(tmp_path / "x.pth", REFUSED[case]))


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_of_a_pickle_is_run(tmp_path, writer):
    WRITERS[writer](tmp_path / "x.pth", {"state_dict": {"w": VALUES}, "args": Runs(tmp_path / "a")})
    with pytest.raises(UserError, match="the name posix.mkdir.*Nothing in it was run"):
        read_torch(tmp_path / "x.pth")
    assert not (tmp_path / "a").exists()


def test_a_compressed_archive_is_refused(tmp_path):
    """A thousand times its size could be in it."""
    data = tensor_pickle((2,), (1,), size=2**22)
    path = archive(tmp_path / "x.pth", data, bytes(2**24), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed files in the archive"):
        read_torch(path)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_was_cut_is_named_wherever_it_was_cut(tmp_path, writer):
    path = tmp_path / "x.pth"
    WRITERS[writer](path, {"w": VALUES, "v": VALUES[0]})
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="x.pth'"):
            read_torch(path)


def test_safetensors_files_and_folders(tmp_path):
    save_file({"w": VALUES}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    for path in (tmp_path, tmp_path / "model.safetensors"):
        weights = read_weights(path)
        assert weights.container == "safetensors" and weights.tensors["w"].shape == VALUES.shape
        np.testing.assert_array_equal(np.asarray(weights.tensors["w"]), VALUES)
    assert read_weights(tmp_path).other == {"architecture": "resnet18"}
    np.savez(tmp_path / "x.npz", w=VALUES)
    np.testing.assert_array_equal(read_weights(tmp_path / "x.npz").tensors["w"], VALUES)


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**32) + b'{"w": ',  # a header of 4 GB
        header({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}),  # no data
        header({"w": {"dtype": "F32", "shape": [2, 2**40], "data_offsets": [0, 8]}}) + bytes(8),
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}) + bytes(8),
        struct.pack("<Q", 9) + b'{"w": {{{',
    ],
)
def test_a_damaged_safetensors_file_is_named(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="x.safetensors' is damaged"):
        read_weights(tmp_path / "x.safetensors")


def test_what_is_no_weights_file_is_said(tmp_path):
    cases = (
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "model.safetensors' cannot be read"),
        (lambda path: os.mkfifo(path), "is no regular file but a pipe"),
        (lambda path: zip_file(path, {"epoch": 3}), "has no tensors by name"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "has no tensors by name"),
        (lambda path: path.write_bytes(b"weights"), "is not a file of torch.save"),
    )
    for number, (make, match) in enumerate(cases):
        path = tmp_path / str(number)
        make(path)
        with pytest.raises(UserError, match=match):
            read_weights(path)
