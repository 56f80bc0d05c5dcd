"""Damaged .npz files and files of other kinds."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.data.plain_npz import read_npz
from jssl.errors import UserError

IMAGES = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)


def arrays(folder, split="train"):
    config = ConfigDict({**DEFAULTS, "name": "arrays", "data_dir": str(folder)})
    return data.make_source(config, split)


def npy(array=IMAGES, **header):
    """An .npy file whose header may be wrong."""
    file = io.BytesIO()
    stored = {"descr": "|u1", "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(file, stored)
    return file.getvalue() + array.tobytes()


def archive(members, kind=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as stored:
        for name, content in members.items():
            stored.writestr(name, content)
    return file.getvalue()


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


WHOLE = archive({"image.npy": npy(), "label.npy": npy(np.arange(6, dtype=np.uint8))})
BOMB = archive({"image.npy": npy(np.zeros((4096, 64, 64, 3), np.uint8))}, zipfile.ZIP_DEFLATED)
SIZES = b"PK\x01\x02"  # the central directory, whose sizes are trusted
DAMAGED = {
    "empty": b"",
    "no zip": b"image",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a pickle": pickle.dumps({"image": IMAGES}),
    "npy": npy(),
    "no arrays": archive({}),
    "text": archive({"image.npy": b"hello"}),
    "empty member": archive({"image.npy": b""}),
    "objects": archive({"image.npy": npy(descr="|O")}),
    "a shape too large": archive({"image.npy": npy(shape=(2**40, 4, 4, 3))}),
    "a shape of 2^63": archive({"image.npy": npy(shape=(2**62, 2**62, 4, 3))}),
    "a negative shape": archive({"image.npy": npy(shape=(-6, 4, 4, 3))}),
    "a dtype too large": archive({"image.npy": npy(descr="<f8")}),
    "structures": archive({"image.npy": npy(descr=[("a", "u1")])}),
    "too much": archive({"image.npy": npy() + b"x"}),
    "too little": archive({"image.npy": npy()[:-1]}),
    "header of text": archive({"image.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': __import}"}),
    "a long header": archive({"image.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f"}),
    "version 9": archive({"image.npy": b"\x93NUMPY\x09\x00" + npy()[8:]}),
    "bz2": archive({"image.npy": npy()}, zipfile.ZIP_BZIP2),
    "a lie": BOMB[: BOMB.index(SIZES) + 24]
    + struct.pack("<I", 2**31)
    + BOMB[BOMB.index(SIZES) + 28 :],
    "an encrypted one": WHOLE.replace(b"\x14\x03\x14\x00\x00", b"\x14\x03\x14\x00\x01"),
    **{f"cut at {n}": WHOLE[:n] for n in range(7, len(WHOLE) - 1, 53)},
    **{f"bit at {n}": flipped(WHOLE, n) for n in (0, 200, 330, 700)},
    **{f"bomb bit {n}": flipped(BOMB, n) for n in (60, 90, 120)},
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_arrays_raise_user_errors(tmp_path, kind):
    (tmp_path / "train.npz").write_bytes(DAMAGED[kind])
    with pytest.raises(UserError) as caught:
        arrays(tmp_path)
    message = str(caught.value)
    assert "train.npz' " in message and "\n" not in message
    assert "Write" in message and message.endswith(".")


def test_messages_for_damaged_arrays(tmp_path):
    for kind, message in (
        ("objects", "'image.npy' is an array of object, not of numbers"),
        ("too little", "'image.npy' promises 288 bytes and holds 287"),
        ("no zip", "File is not a zip file"),
        ("a lie", "'image.npy' promises 2,147,483,648 bytes in"),
    ):
        (tmp_path / "x.npz").write_bytes(DAMAGED[kind])
        with pytest.raises(UserError, match=message):
            read_npz(tmp_path / "x.npz")
    with pytest.raises(UserError, match="is no file"):
        read_npz(tmp_path)


def test_read_npz_equals_numpy(tmp_path):
    stored = {"a": IMAGES, "f": np.asfortranarray(IMAGES), "b": np.arange(3.0).astype(">f4"),
            "e": np.zeros((0, 3)), "s": np.float64(2), "t": np.array(["x", "é"])}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **stored)
        result = read_npz(tmp_path / "x.npz")
        assert result.keys() == stored.keys()
        for name, array in stored.items():
            np.testing.assert_array_equal(result[name], array)
            assert result[name].shape == np.shape(array)
    assert set(read_npz(tmp_path / "x.npz", ("a", "nothing"))) == {"a"}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([0, 1, 2, 0, 1, 2.5]), r"float64 \[6\] \(the first is 0.0\): expected integers"),
        (np.array([0, 1, 2, 0, 1, -1]), "with the value -1: expected numbers of classes from 0"),
        (np.array([0, 1, 2, 0, 1, 2**40]), "with the value 1099511627776: expected"),
        (np.array([0, 1, 2, 0, 1, 2**63], np.uint64), "with the value 9223372036854775808"),
        (np.array([0, 1, 2, 0, 1, 10**6]), "with the value 1000000: .* to 999,999 at most"),
        (np.array([0, 1, 2]), r"int64 \[3\].*\[M\] with M=6, one a picture"),
        (np.zeros((6, 1), int), r"int64 \[6, 1\].*one a picture"),
        (np.int64(1), r"int64 \[\].*one a picture"),
        (np.array([True] * 6), r"bool \[6\] \(the first is True\)"),
        (np.array(["cat"] * 6), r"<U3 \[6\] \(the first is cat\)"),
    ],
)
def test_invalid_labels_are_refused(tmp_path, label, message):
    np.savez(tmp_path / "train.npz", image=IMAGES, label=label)
    with pytest.raises(UserError, match=message):
        arrays(tmp_path)
    np.savez(tmp_path / "train.npz", image=IMAGES, label=np.arange(6))
    if label.ndim == 1 and len(label) == 6:  # found before anything is trained
        np.savez(tmp_path / "test.npz", image=IMAGES, label=label)
        with pytest.raises(UserError, match="test.npz' holds label"):
            arrays(tmp_path)


def test_classes_are_those_of_both_files(tmp_path):
    np.savez(tmp_path / "train.npz", image=IMAGES, label=np.array([0, 1, 2, 3, 0, 1], np.uint8))
    np.savez(tmp_path / "test.npz", image=IMAGES[:2], label=np.array([0, 4]))
    assert arrays(tmp_path).num_classes == arrays(tmp_path, "test").num_classes == 5
    assert arrays(tmp_path).class_names is None
    names = np.array(["a", "b", "c", "d", "e"])
    np.savez(tmp_path / "test.npz", image=IMAGES[:2], label=np.array([0, 4]), class_names=names)
    assert arrays(tmp_path).class_names == arrays(tmp_path, "test").class_names == tuple("abcde")
    label = np.arange(6) % 4
    np.savez(tmp_path / "train.npz", image=IMAGES, label=label, class_names=names[::-1])
    with pytest.raises(UserError, match="class 0 is 'a' in one and 'e' in the other"):
        arrays(tmp_path)
    np.savez(tmp_path / "train.npz", image=IMAGES, label=label, class_names=names[:2])
    (tmp_path / "test.npz").unlink()
    with pytest.raises(UserError, match="has 2 class_names for labels up to 3"):
        arrays(tmp_path)
    np.savez(tmp_path / "train.npz", image=IMAGES, label=label, class_names=np.arange(4))
    with pytest.raises(UserError, match=r"class_names int64 \[4\]: expected text"):
        arrays(tmp_path)
    np.savez(tmp_path / "train.npz", image=IMAGES, words=names)
    with pytest.raises(UserError, match="'words' of .* is of <U1: expected numbers"):
        arrays(tmp_path)


def test_is_tfds():
    for name in ("fgvc_aircraft", "birdsnap", "synthetic_video", "folder"):
        assert not data.is_tfds(name)
    assert data.is_tfds("cifar10:3.0.2") and data.is_tfds("food101")
