"""Damaged and hostile containers end in one sentence; nothing in them is run."""

import os
import pickle
import shutil

import numpy as np
import pytest
from convert.test_families import GOLDEN
from convert.tf_files import BFLOAT16, checkpoint_file
from convert.torch_files import zip_file

from jssl import convert
from jssl.convert.containers import read_weights
from jssl.convert.crc32c import crc32c
from jssl.convert.tf_checkpoint import read_checkpoint
from jssl.convert.torch_file import Bag, module_tensors
from jssl.errors import UserError


def slow_crc(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 4095, 4096, 4097, 10_001])
def test_checksums_of_every_length(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc(data)


def test_the_checksums_of_rfc_3720():
    rows = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    assert {crc32c(data): value for data, value in rows.items()} == {v: v for v in rows.values()}


def test_every_type_of_tensorflow(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, -2], BFLOAT16),
        "c": np.int64(225206),
        "d": np.array([True, False]),
        "e": np.zeros((0, 3), np.float64),
        "f": np.array([[3]], np.int32),
        "g": np.array([0.5], np.float16),
    }
    checkpoint_file(tmp_path / "x", tensors)
    loaded, files = read_checkpoint(tmp_path / "x")
    assert [f.name for f in files] == ["x.index", "x.data-00000-of-00001"]
    for name, value in tensors.items():
        np.testing.assert_array_equal(np.asarray(loaded[name]), value)
        assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape


def copied(folder):
    for name in ("simclr.index", "simclr.data-00000-of-00001"):
        shutil.copy(GOLDEN / name, folder / name)
    return folder / "simclr.index", folder / "simclr.data-00000-of-00001"


def test_a_byte_of_the_index_that_changed_is_noticed(tmp_path):
    index, _ = copied(tmp_path)
    data = bytearray(index.read_bytes())
    whole = {name: np.asarray(x) for name, x in read_checkpoint(index)[0].items()}
    quiet = []
    for at in range(0, len(data), 13):
        index.write_bytes(bytes([*data[:at], data[at] ^ 0x10, *data[at + 1 :]]))
        try:
            tensors, _ = read_checkpoint(index)
        except UserError as error:
            assert "is damaged" in str(error) or "objects of TensorFlow 2" in str(error)
        else:
            quiet.append(at)
            assert {n: x.shape for n, x in tensors.items()} == {
                n: x.shape for n, x in whole.items()
            }
    # The handle of the empty meta block, and the zeros that fill up the footer.
    assert all(len(data) - 100 < at < len(data) - 8 for at in quiet)
    for size in range(0, len(data), 101):
        index.write_bytes(data[:size])
        with pytest.raises(UserError, match="is damaged"):
            read_checkpoint(index)


def test_a_byte_of_the_values_that_changed_is_noticed(tmp_path):
    index, values = copied(tmp_path)
    data = bytearray(values.read_bytes())
    data[1000] ^= 1
    values.write_bytes(data)
    with pytest.raises(UserError, match="the checksum of a tensor of shape"):
        convert.read_pretrained(index)
    values.write_bytes(data[:-4])
    with pytest.raises(UserError, match="lies beyond the end of its data file"):
        convert.read_pretrained(index)
    values.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001' cannot be read: No such file"):
        convert.read_pretrained(index)


def test_a_checkpoint_of_keras_is_refused(tmp_path):
    checkpoint_file(tmp_path / "x", {"model/layer-0/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.eye(2)})
    with pytest.raises(UserError, match="is a checkpoint of objects of TensorFlow 2"):
        convert.read_pretrained(tmp_path)


def test_selective_kernels_are_refused_by_name(tmp_path):
    tensors = {f"base_model/conv2d{n}/kernel": np.zeros((3, 3, 3, 32)) for n in ("", "_1", "_2")}
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    tensors |= {"head_contrastive/nl_0/dense/kernel": np.zeros((2, 2), np.float32)}
    checkpoint_file(tmp_path / "x", tensors)
    with pytest.raises(UserError, match=r"has selective kernels \(SK\)"):
        convert.read_pretrained(tmp_path / "x")


class Call:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_of_haiku_runs_nothing(tmp_path):
    path = tmp_path / "byol.pkl"
    path.write_bytes(pickle.dumps({"experiment_state": Call(tmp_path / "run")}, protocol=2))
    with pytest.raises(UserError, match=r"the name (posix|nt)\.mkdir"):
        convert.read_pretrained(path)
    assert not (tmp_path / "run").exists()
    data = (GOLDEN / "byol.pkl").read_bytes()
    for size in range(1, len(data), len(data) // 40):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="is not a pickle of plain values|not a file of torch"):
            read_weights(path)


@pytest.mark.parametrize(
    "value", [b"cbyol.x\nC\n.", b"cbyol.x\nC\n)R.", b"(chaiku\nFlatMapping\no."]
)
def test_stand_ins_of_haiku_are_no_values(tmp_path, value):
    path = tmp_path / "byol.pkl"
    path.write_bytes(b"\x80\x02" + value)
    with pytest.raises(UserError, match="not a pickle of plain values|has no tensors by name"):
        read_weights(path)


def test_modules_that_hold_themselves_are_refused(tmp_path):
    bag = Bag()
    bag["_modules"] = {"a": bag, "b": bag}
    with pytest.raises(UserError, match="more than 10,000 modules"):
        module_tensors(bag)
    assert module_tensors({"_parameters": [1], "_modules": 3}) == {}


def test_half_of_the_dvae_is_named(tmp_path):
    shutil.copy(GOLDEN / "dalle" / "encoder.pkl", tmp_path / "encoder.pkl")
    for path in (tmp_path / "encoder.pkl", tmp_path):
        with pytest.raises(UserError, match="DALL-E's two files|cannot be read"):
            read_weights(path)


def test_what_lies_beside_the_network_is_listed(tmp_path):
    path = tmp_path / "x.pth"
    zip_file(
        path,
        {
            "model": {"a.weight": np.eye(2, dtype=np.float32)},
            "optimizer": {"state": {}},
            "epoch": 3,
        },
    )
    weights = read_weights(path)
    assert weights.beside == ("optimizer",) and weights.other == {"epoch": 3}
