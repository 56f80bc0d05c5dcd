"""Plain pickles are read as by pickle; all others are refused."""

import io
import pickle
import resource
import subprocess
import sys

import numpy as np
import pytest

from jssl.data.plain_pickle import read_plain_pickle
from jssl.errors import UserError

DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">i8", "<u8", "<f2", ">f2",
          "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16", "S3", "<U4", ">U4")  # fmt: skip


def layouts(dtype):
    """Arrays of a dtype in every shape and order that numpy has."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (2, 3, 4)).astype(np.int64)
    x = x.astype(dtype) if np.dtype(dtype).kind not in "SU" else x.astype("U2").astype(dtype)
    return {
        "C": x,
        "F": np.asfortranarray(x),
        "steps": x[:, ::2, ::-1],
        "axes": x.transpose(1, 0, 2),
        "broadcast": np.broadcast_to(x[0, 0], (5, 4)),
        "0-d": x[1, 2, 3].reshape(()),
        "empty": x[:0],
        "empty inside": np.empty((3, 0, 2), dtype),
        "one": x[0, 0],
        "read-only": np.frombuffer(x.tobytes(), dtype),
        "scalar": x[1, 2, 3],
    }


def read(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    return read_plain_pickle(tmp_path / "x.pkl")


def assert_same(result, expected):
    assert type(result) is type(expected)
    assert result.dtype == expected.dtype and result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)
    if expected.ndim and expected.size:
        assert result.strides == expected.strides


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_equal_those_of_pickle(tmp_path, dtype, protocol):
    arrays = layouts(dtype)
    content = pickle.dumps(arrays, protocol)
    expected = pickle.loads(content)
    result = read(tmp_path, content)
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        assert_same(result[name], array)
        np.testing.assert_array_equal(result[name], arrays[name])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_equal_those_of_pickle(tmp_path, protocol):
    shared = [1, 2]
    values = {
        "text": ["a", "é", "\U0001f431", ""], "bytes": [b"", b"\xff\x00"], 3: (1, 2.5, -1j, None),
        "deep": [[[(True, False)]]], "large": [2**40, -(2**70)], "set": {1, 2},
        "frozen": frozenset((3,)), "array": bytearray(b"ab"), "none": bytearray(),
        "numpy": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_(""), np.bytes_(b"x")],
    }  # fmt: skip
    content = pickle.dumps({**values, "twice": (shared, shared)}, protocol)
    result = read(tmp_path, content)
    assert result == pickle.loads(content)
    assert result["twice"][0] is result["twice"][1]
    loop = [1]
    loop.append(loop)
    again = read(tmp_path, pickle.dumps(loop, protocol))
    assert again[1] is again


REFUSED = {
    "objects": np.array([[], None], object),
    "structures": np.zeros(2, [("a", "i4"), ("b", "f8")]),
    "dates": np.zeros(2, "M8[ns]"),
    "spans": np.zeros(2, "m8[s]"),
    "bytes without a kind": np.zeros(2, "V4"),
    "a note": np.zeros(2, np.dtype("f8", metadata={"a": 1})),
    "a record": np.rec.array([(1, 2.0)]),
    "masked": np.ma.array([1, 2], mask=[True, False]),
    "a matrix": np.zeros((2, 2)).view(type("Own", (np.ndarray,), {"__module__": "numpy"})),
    "a class": np.ndarray,
    "a function": np.dtype,
    "an exception": ValueError("x"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", REFUSED)
def test_other_pickles_are_refused(tmp_path, kind, protocol):
    file = io.BytesIO()
    try:
        pickle.Pickler(file, protocol).dump(REFUSED[kind])
    except (pickle.PicklingError, AttributeError):  # a class of this test
        file.write(b"cnumpy\nOwn\n.")
    with pytest.raises(UserError, match="is not a pickle of plain values: found "):
        read(tmp_path, file.getvalue())


def dtype_state(*state):
    """A pickle of a dtype f8 with a given state, which numpy would accept."""
    tail = pickle.dumps(state, 2)[2:-1]
    return b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR" + tail + b"b."


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02N" + b"r" + (2**28).to_bytes(4, "little") + b".",  # a memo of 4 GB
        b"\x80\x02Nr\xff\xff\xff\xff.",
        b"N" + b"p%d\n." % 2**33,
        b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".",  # an array of bytes of 8 GB
        b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b".",
        b"\x80\x04\x8d" + (2**33).to_bytes(8, "little") + b".",
        b"\x80\x02T" + (2**31 - 1).to_bytes(4, "little") + b".",
        b"\x80\x04\x95" + (2**33).to_bytes(8, "little") + b"N.",
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",
        b"",
        b"N",
        dtype_state(3, "|", None, None, None, 8, 1, 63),
        dtype_state(3, "|", ("i4", (1000,)), None, None, 8, 1, 0),
        dtype_state(3, "<", None, None, None, 10**6, -1, 0),
        dtype_state(3, "?", None, None, None, -1, -1, 0),
        dtype_state(),
    ],
    ids=range(16),
)
def test_small_files_take_little_memory(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="is not a pickle of plain values"):
        read_plain_pickle(tmp_path / "x.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_memo_is_bounded(tmp_path):
    """A reader without the check would need more memory than the process may use."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\x0f.")
    program = (
        "import resource, sys; from jssl.data.plain_pickle import read_plain_pickle\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from jssl.errors import UserError\n"
        "try: read_plain_pickle(sys.argv[1])\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.pkl"], capture_output=True, text=True
    )
    assert "found the memo index 268435455 in 9 bytes" in done.stdout
