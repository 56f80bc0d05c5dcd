"""Malicious tar files: nothing is written outside the folder, and memory is bounded."""

import gzip
import io
import os
import tarfile

import pytest

from jssl.data import unpack as module
from jssl.data.unpack import MemberError, unpack


def member(name, content=b"x", **values):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in values.items():
        setattr(info, key, value)
    return info, content


def link(name, target, kind=tarfile.SYMTYPE):
    return member(name, b"", type=kind, linkname=target)


def pack(path, *members, pax=None):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=pax or {}) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def place(tmp_path):
    """Unpacks into inner/sets and returns the files written anywhere else."""
    folder = tmp_path / "inner" / "sets"
    folder.mkdir(parents=True)
    (tmp_path / "victim").write_bytes(b"kept")

    def run(*members, **options):
        archive = pack(tmp_path / "a.tar", *members, **options)
        before = sorted(tmp_path.rglob("*"))
        try:
            return unpack(archive, folder)
        finally:
            outside = [p for p in sorted(tmp_path.rglob("*")) if folder not in p.parents]
            assert outside == [p for p in before if folder not in p.parents]
            assert (tmp_path / "victim").read_bytes() == b"kept"

    return run, folder


def long_chain():
    """CVE-2025-4517: folders and links whose real path is longer than the system resolves."""
    step, path, result = "d" * 247, "", []
    for letter in "abcdefghijklmnop":
        result.append(member(f"{path}{step}", b"", type=tarfile.DIRTYPE))
        result.append(link(f"{path}{letter}", step))
        path += f"{letter}/"
    result.append(link(f"{path}{'l' * 254}", "../" * 16))
    result.append(link("escape", f"{path}{'l' * 254}/../.."))
    return [*result, member("escape/victim", b"changed")]


HARM = {
    "above": ([member("../../victim")], "is not a path inside the folder"),
    "above, further in": ([member("a/b/../../../victim")], "is not a path inside the folder"),
    "absolute": ([member("/of_a_test/victim")], "is not a path inside the folder"),
    "a long path": ([member("/".join(["d" * 200] * 30))], "is not a path inside the folder"),
    "a link": ([link("a", "../.."), member("a/victim")], "is a symbolic link"),
    "a link inside": ([member("b"), link("a", "b")], "is a symbolic link"),
    "a chain of links": (long_chain(), "is a symbolic link"),
    "a hard link": ([link("a", "../../victim", tarfile.LNKTYPE)], "is a hard link"),
    "a device": ([member("a", b"", type=tarfile.CHRTYPE)], "is a device, a pipe"),
    "a block device": ([member("a", b"", type=tarfile.BLKTYPE)], "is a device, a pipe"),
    "a pipe": ([member("a", b"", type=tarfile.FIFOTYPE)], "is a device, a pipe"),
    "another type": ([member("a", b"", type=b"Z")], "is a device, a pipe"),
    "twice": ([member("a"), member("./a", b"y")], "occurs twice"),
    "a sparse file": (
        [member("a", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50)})],
        "a sparse file"),
    "a zero in a path": ([member("b", pax_headers={"path": "a\0b"})], "is not a path inside"),
    "a long header": ([member("a", pax_headers={"comment": "x" * 2**21})], "has a header of 2,"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_nothing_is_written_outside(place, name):
    run, folder = place
    members, message = HARM[name]
    with pytest.raises(MemberError, match=message):
        run(member("first"), *members)
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_existing_links_are_not_followed(place, tmp_path):
    """A link that another process made meanwhile."""
    run, folder = place
    (folder / "a").symlink_to(tmp_path)
    with pytest.raises(MemberError, match="'a/victim' is outside the folder"):
        run(member("a/victim", b"changed"))


def test_number_of_members_is_bounded(place, monkeypatch):
    run, _ = place
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    assert run(*[member(f"a{i}") for i in range(3)]) == 3
    with pytest.raises(MemberError, match="it has more than 3 members"):
        run(*[member(f"b{i}") for i in range(4)])


def test_archive_bombs_are_refused_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 10_000)
    plain = pack(tmp_path / "a.tar", member("small"), member("zeros", bytes(10**7)))
    bomb = tmp_path / "a.tar.gz"
    bomb.write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(MemberError, match="its members hold more than .* 100 times its own size"):
        unpack(bomb, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small"]


def test_negative_sizes_are_refused(place, tmp_path):
    """CVE-2025-8194: the next header would be before this one, an infinite loop."""
    run, folder = place
    info, _ = member("a", b"")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "b.tar").write_bytes(member("first", b"")[0].tobuf() + bytes(block) + bytes(1024))
    with pytest.raises(MemberError, match="'a' has a size below 0"):
        unpack(tmp_path / "b.tar", folder)


def test_damaged_headers_are_errors(place, tmp_path):
    run, folder = place
    run(member("one"), member("two"))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[1024 + 20] ^= 1  # in the second header
    for name, data in (("b.tar", bytes(content)), ("b.tgz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"of_{name}").mkdir()
        with pytest.raises(tarfile.ReadError, match="bad checksum at byte 1,024"):
            unpack(tmp_path / name, tmp_path / f"of_{name}")


def test_archives_must_be_regular_files(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    for path in (tmp_path / "a.tar", "/dev/zero"):
        with pytest.raises(ValueError, match="is no regular file but a"):
            unpack(path, tmp_path)


def test_harmless_members_are_unpacked(place):
    run, folder = place
    files = {"a/b/c.txt": b"c", "./d": b"", "e..f/..g": b"g", "é/x": b"x", "n" * 200: b"n"}
    members = [member("a", b"", type=tarfile.DIRTYPE), *(member(n, c) for n, c in files.items())]
    assert run(*members) == len(files)
    for name, content in files.items():
        assert (folder / name).read_bytes() == content
