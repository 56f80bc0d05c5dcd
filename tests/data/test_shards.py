"""WebDataset tar shards and array_record files, with random access."""

import gzip
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_generated_pb2

from jssl import data
from jssl.data import shards
from jssl.data.build import DEFAULTS, has_split, is_tfds
from jssl.data.records import picture_in_example
from jssl.data.shards import find_shards
from jssl.data.tar_index import read_index
from jssl.errors import UserError


def pixels(level):
    return np.full((6, 8, 3), level, np.uint8)


@pytest.fixture
def png(encode):
    return lambda level: encode(pixels(level))


def pack(path, members, kind=tarfile.USTAR_FORMAT):
    """Writes a tar file of (name, content) or TarInfo members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def section(pattern, **keys):
    return ConfigDict({**DEFAULTS, "name": f"shards:{pattern}", **keys})


def source(pattern, split="train", **keys):
    return data.make_source(section(pattern, **keys), split)


def check(found, levels, labels=None):
    assert isinstance(found, data.Source) and len(found) == len(levels)
    for i in np.random.default_rng(0).permutation(len(levels)).tolist():
        example = found[i]
        np.testing.assert_array_equal(example["image"], pixels(levels[i]))
        assert example["label"] == (-1 if labels is None else labels[i])
        assert example["index"] == i


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_labelled_shards(kind, png, tmp_path):
    long = "d" * 150 + "é" if kind != tarfile.USTAR_FORMAT else "d"
    for shard in range(3):
        rows = range(4 * shard, 4 * shard + 4)
        pack(tmp_path / f"{shard}.tar", [
            member for i in rows for member in (
                (f"{long}/{i:04d}.cls", b" %d\n" % (i % 3)), (f"{long}/{i:04d}.PNG", png(i)),
                (f"{long}/{i:04d}.txt", b"a caption"), (f"{long}/{i:04d}.json", b'{"url": 1}'),
            )
        ], kind)  # fmt: skip
    found = source(tmp_path / "*.tar")
    check(found, range(12), [i % 3 for i in range(12)])
    assert (found.num_classes, found.class_names) == (3, None)
    np.testing.assert_array_equal(data.labels_of(found), [i % 3 for i in range(12)])
    assert "12 pictures of 3 classes in 3 shards; passed over: 12 x .txt" in data.describe(found)
    check(pickle.loads(pickle.dumps(found)), range(12), found.labels)  # as workers get it
    with ThreadPoolExecutor(8) as pool:
        levels = list(pool.map(lambda i: int(found[i % 12]["image"][0, 0, 0]), range(240)))
    assert levels == [i % 12 for i in range(240)]


def test_labels_in_json(png, tmp_path):
    members: list = []
    for i in range(3):
        members += [(f"{i}.jpg", png(i)), (f"{i}.json", b'{"label": %d}' % (2 - i))]
    pack(tmp_path / "a.tar", members)
    check(source(tmp_path / "a.tar"), range(3), [2, 1, 0])


def test_pictures_without_labels_and_splits_of_their_own(png, tmp_path):
    pack(tmp_path / "train" / "0.tar", [("a.png", png(1)), ("./b.png", png(2)), ("c.mp4", b"v"),
                                        ("d.left.png", b"another view")])  # fmt: skip
    pack(tmp_path / "val" / "0.tar", [("a.png", png(3)), ("a.cls", b"1")])
    found = source("train/*.tar", data_dir=str(tmp_path))
    check(found, [1, 2])
    assert (found.num_classes, found.class_names) == (0, ())
    assert "1 x .mp4, 1 x .left.png" in data.describe(found)
    assert not has_split(section("x"), "test") and has_split(section("x", test_split="y"), "test")
    assert not is_tfds("shards:x.tar")
    with pytest.raises(UserError, match="no test shards. Type --config.data.test_split="):
        source("train/*.tar", "test", data_dir=str(tmp_path))
    keys = {"data_dir": str(tmp_path), "test_split": "val/*.tar"}
    check(source("train/*.tar", "test", **keys), [3], [1])
    check(source("train/*.tar", "probe", probe_split="val/*.tar", **keys), [3], [1])
    check(source("train/*.tar", "probe", **keys), [1, 2])
    with pytest.raises(UserError, match="names no shards"):
        source("")


def test_the_splits_have_the_same_number_of_classes(png, tmp_path):
    for name, label in (("train", 2), ("val", 6), ("probe", 4)):
        pack(tmp_path / f"{name}.tar", [("a.png", png(1)), ("a.cls", b"%d" % label)])
    keys = {"data_dir": str(tmp_path), "test_split": "val.tar", "probe_split": "probe.tar"}
    counts = [
        source("train.tar", split, **keys).num_classes for split in ("train", "probe", "test")
    ]
    assert counts == [7, 7, 7]
    assert source("train.tar", data_dir=str(tmp_path)).num_classes == 3


def test_headers_are_read_once(png, tmp_path, monkeypatch):
    path, reads = pack(tmp_path / "a.tar", [("a.png", png(1))]), []
    monkeypatch.setattr(shards, "read_index", lambda x: reads.append(x) or read_index(x))
    for split in ("train", "probe", "train"):
        source(path, split)
    assert len(reads) == 1
    pack(path, [("a.png", png(1)), ("b.png", png(2))])
    assert len(source(path)) == 2 and len(reads) == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_the_same_for_any_number_of_processes(processes, png, tmp_path):
    for shard in range(2):
        pack(tmp_path / f"{shard}.tar", [(f"{i}.png", png(10 * shard + i)) for i in range(6)])
    rows = []
    for number in range(processes):
        batches = data.train_batches(source(tmp_path / "*.tar"), batch_size=4, seed=3,
                                     process_index=number, process_count=processes)  # fmt: skip
        rows.append([next(batches)["image"][:, 0, 0, 0].tolist() for _ in range(3)])
        batches.close()
    joined = [sum(parts, []) for parts in zip(*rows, strict=True)]
    order = data.shuffled(3, 0, 12)
    assert joined == (order + 4 * (order >= 6)).reshape(3, 4).tolist()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_is_that_of_tarfile(kind, tmp_path):
    """Short and long names, names that are not ASCII, empty files, folders and odd times."""
    rng, members = np.random.default_rng(0), []
    for i in range(60):
        folder = ["", "a/", "b" * 90 + "/" + "c" * 90 + "/", "é/"][i % 4]
        member = tarfile.TarInfo(f"{folder}{i}.jpg")
        member.mtime = 1.5 * i if i % 3 else i  # a fraction makes a further header in PAX
        members.append((member, rng.bytes(int(rng.integers(0, 1600)) * (i % 5 > 0))))
        if i % 7 == 0:
            members.append(info(f"{folder}{i}", tarfile.DIRTYPE))
    path = pack(tmp_path / "a.tar", members, kind)
    index = read_index(path)
    with tarfile.open(path) as tar:
        expected = [(m.offset_data, m.size) for m in tar if m.isfile()]
    assert list(zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)) == expected


def info(name, kind, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, b""


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/a.png", b"x")], "'/a.png' is not a path inside a folder"),
        ([("b/../../a.png", b"x")], "is not a path inside a folder"),
        ([info("a.png", tarfile.SYMTYPE, "/etc/passwd")], "'a.png' is a symbolic link"),
        ([info("a.png", tarfile.LNKTYPE, "b.png")], "'a.png' is a hard link"),
        ([info("a.png", tarfile.FIFOTYPE)], "a device, a pipe or a sparse file"),
        ([("a.png", b"x"), ("a.jpg", b"x")], "'a.jpg' is a second picture of 'a'"),
        ([("a.png", b"x"), ("b.png", b"x"), ("a.cls", b"1")], "label of 'a' has no picture next"),
        ([("a.png", b"x"), ("a.cls", b"cat")], r"'a.cls' holds b'cat'; expected the number of a"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "'a.cls' holds b'-1'"),
        ([("a.png", b"x"), ("a.cls", b"10000000")], "below 1,000,000"),
        ([("a.png", b"x"), ("a.cls", b"1" * 40)], "'a.cls' has 40 bytes, expected at most 32"),
        ([("a.png", b"x"), ("a.json", b'{"label": "1"}')], "'a.json' has the label 1; expected"),
        ([("a.png", b"x"), ("a.json", b'{"label": true}')], "'a.json' has the label True"),
        ([("a.png", b"x"), ("a.json", b'{"label": ')], "'a.json' is no JSON"),
        ([("a.png", b"x"), ("a.json", b'"label"' + b"[" * 10**5)], "'a.json' is no JSON"),
        ([("a.png", b"x"), ("b.png", b"x"), ("b.cls", b"1")], "labels for 1 of 2 .*: a.png': exp"),
        ([("a.txt", b"x"), ("b.npy", b"x")], "hold no pictures: found 1 x .txt, 1 x .npy"),
        ([], "hold no pictures: found no files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_members_that_are_refused(members, message, tmp_path):
    pack(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=message) as error:
        source(tmp_path / "a.tar")
    assert "\n" not in str(error.value)


def test_sparse_members_are_refused(tmp_path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 0  # no further headers
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UserError, match="'a.png' is a device, a pipe or a sparse file"):
        source(tmp_path / "a.tar")


@pytest.mark.parametrize("cut", [100, 512, 600, 1100, 1536, 1600, 2047])
def test_a_shard_that_is_cut_short_is_refused(cut, tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", b"x" * 600), ("b.png", b"y" * 100)])
    assert len(read_index(path).sizes) == 2
    os.truncate(path, cut)
    with pytest.raises(UserError, match="is no whole plain tar file: .*copy it again"):
        source(path)


def test_a_damaged_header_is_refused(tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", b"x" * 600), ("b.png", b"y" * 100)])
    content = bytearray(path.read_bytes())
    for place in (0, 130, 1536, 1536 + 130, 1536 + 156):
        damaged = content.copy()
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is no whole plain tar file.*copy it again"):
            source(path)
    # A size that overflows, with a right checksum, neither loops nor reads beyond the end.
    for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12):
        damaged = content.copy()
        damaged[124:136], damaged[148:156] = size, b" " * 8
        damaged[148:156] = b"%06o\0 " % sum(damaged[:512])
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="'a.png'|is no whole plain tar"):
            source(path)


def test_compressed_shards_are_refused_with_the_command(png, tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", png(1))])
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "b.tar.gz").write_bytes(packed)
    with pytest.raises(UserError, match="b.tar.gz' is compressed.*Type gunzip '.*b.tar.gz', and a"):
        source(tmp_path / "*.tar*")
    path.write_bytes(packed)
    with pytest.raises(UserError, match="is compressed, which .*: unpack it with gunzip"):
        source(path)


def test_patterns(tmp_path):
    with pytest.raises(UserError, match="matches no files.*Braces are not expanded"):
        find_shards("{000..999}.tar", str(tmp_path))
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.zip").touch()
    with pytest.raises(UserError, match="files ending in .tar, .zip: expected .tar only"):
        find_shards("*", str(tmp_path))


def test_a_shard_that_changes_while_it_is_used(png, tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", png(1)), ("b.png", png(2))])
    found = source(path)
    pack(path, [("b.png", png(2)), ("a.png", png(1)), ("c.png", png(2))])
    with pytest.raises(UserError, match="a.tar' has changed since its headers were read"):
        found[0]
    path.unlink()
    with pytest.raises(UserError, match="a.tar' cannot be read: No such file"):
        found[0]


def test_bad_and_large_pictures_are_named(png, tmp_path):
    large = png(3) + bytes(2 * 2**20)
    path = pack(tmp_path / "a.tar", [("x/a.png", b"no picture"), ("x/b.png", large)])
    found = source(path, on_error="skip", max_megabytes=1)
    assert found.on_error == "skip"
    with pytest.raises(data.PictureError, match="a.tar: x/a.png' cannot be decoded"):
        found[0]
    with pytest.raises(
        data.PictureError, match="x/b.png' has 2,0.* at most 1,048,576. .*megabytes=N"
    ):
        found[1]


def test_the_fingerprint_follows_the_members(png, tmp_path):
    prints = set()
    for number, members in enumerate((
        [("a.png", png(1)), ("b.png", png(2))], [("a.png", png(1)), ("b.png", png(2))],
        [("a.png", png(1))], [("a.png", png(1)), ("b.png", png(2) + b"x")],
        [("a.png", png(1)), ("a.cls", b"0"), ("b.png", png(2)), ("b.cls", b"0")],
    )):  # fmt: skip
        pack(tmp_path / str(number) / "s.tar", members)
        prints.add(source(tmp_path / str(number) / "s.tar").fingerprint())
    assert len(prints) == 4


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features):
    """A serialized tf.train.Example, written by the rules of the format."""
    entries = b""
    for key, value in features.items():
        kind = field(1, field(1, value)) if isinstance(value, bytes) else (
            field(3, field(1, varint(value))) if isinstance(value, int)
            else field(2, field(1, np.float32(value).tobytes()))
        )  # fmt: skip
        entries += field(1, field(1, key.replace("__", "/").encode()) + field(2, kind))
    return field(1, entries)


def write_records(path, records, options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_array_records(png, tmp_path):
    write_records(tmp_path / "a.array_record", [png(0), example(image=png(1), label=7)])
    both = example(height=6, score=0.5, image__encoded=png(2), image=b"no", text="é".encode())
    write_records(tmp_path / "b.array_record", [both, example(label=1), b"\xff\xff", png(4)])
    found = source(tmp_path / "*.array_record")
    assert len(found) == 6 and found.num_classes == 0
    for index, level in ((0, 0), (1, 1), (2, 2), (5, 4)):
        np.testing.assert_array_equal(found[index]["image"], pixels(level))
    with pytest.raises(data.PictureError, match="example 3' is a record without a picture"):
        found[3]
    with pytest.raises(data.PictureError, match="example 4' is neither an encoded picture nor"):
        found[4]
    with pytest.raises(IndexError):
        found[6]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[5]["image"], pixels(4))


def test_examples_of_the_library_are_read():
    """Written by the protocol buffers that tensorflow_datasets brings."""
    written = tf_example_generated_pb2.Example()
    for key, value in {"text": b"x" * 300, "image/encoded": b"AB" * 9000, "image": b"no"}.items():
        written.features.feature[key].bytes_list.value.append(value)
    written.features.feature["label"].int64_list.value.extend([3, 2**40])
    written.features.feature["score"].float_list.value.extend([0.5] * 99)
    written.features.feature["empty"].SetInParent()
    assert picture_in_example(written.SerializeToString(), "p") == b"AB" * 9000
    read = tf_example_generated_pb2.Example.FromString(example(a=b"b", c=1, d=0.5))
    assert read.features.feature["a"].bytes_list.value == [b"b"]
    assert (read.features.feature["c"].int64_list.value, len(read.features.feature)) == ([1], 3)


@pytest.mark.parametrize("place", range(24))
def test_a_damaged_example_is_refused_or_read(place):
    record = bytearray(example(label=1, image__encoded=b"abcdef"))
    record[place] ^= 0xFF
    try:
        picture_in_example(bytes(record), "p")
    except data.PictureError as error:
        assert "'p'" in str(error)


def test_array_records_in_groups_and_cut_ones(png, tmp_path):
    path = write_records(tmp_path / "g.array_record", [png(i) for i in range(5)], "group_size:3")
    check(source(path), range(5))
    empty = write_records(tmp_path / "empty.array_record", [])
    whole = write_records(tmp_path / "cut.array_record", [png(i) for i in range(200)])
    os.truncate(whole, os.path.getsize(whole) // 2)
    for path in (empty, whole):
        message = "holds no records: it is empty or cut short|cut.array_record' cannot be read"
        with pytest.raises(UserError, match=message):
            source(path)
