"""Only regular files of a bounded size, in the listed formats, are read as pictures."""

import os
import socket
import subprocess

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageFile

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.data.decode import Picture
from jssl.errors import UserError
from jssl.regular import FileError, read_file


def test_only_regular_files_are_read(tmp_path):
    pipe, plug, link, loop = (tmp_path / f"{name}.jpg" for name in ("p", "s", "l", "o"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as stored:
        stored.bind(str(plug))
        for path, message in (
            (pipe, "is no regular file but a pipe"),
            (plug, "is no regular file but a socket"),
            (link, "is no regular file but a device"),
            ("/dev/zero", "is no regular file but a device"),
            (tmp_path, "is no regular file but a folder"),
            (loop, "cannot be read: Too many levels of symbolic links"),
            (tmp_path / "none.jpg", "cannot be read: No such file"),
            ("a\0b", "cannot be read: embedded null byte"),
        ):
            with pytest.raises(FileError, match=f"^{message}"):
                read_file(path, 100)
            with pytest.raises(data.PictureError, match=f"' {message}"):
                Picture.read(path)


def test_a_file_that_becomes_a_pipe_does_not_block(tmp_path, monkeypatch):
    """The file is checked again after opening, as it may have been replaced."""
    path = tmp_path / "x.jpg"
    path.write_bytes(b"x")
    result = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *a, **k: result)
    with pytest.raises(FileError, match="is no regular file but a pipe"):
        read_file(path, 100)


def test_large_sparse_files_are_refused(class_folder):
    path = class_folder / "train" / "cat" / "0.png"
    with open(path, "r+b") as file:
        file.truncate(40 * 2**30)
    message = r"0.png' has 42,949,672,960 bytes; expected at most 1,073,741,824. To read larger .*N"
    with pytest.raises(data.PictureError, match=message):
        source(class_folder).encoded(0)
    with open(path, "r+b") as file:
        file.truncate(3 * 2**20)
    assert source(class_folder).encoded(0)["image"].pixels().shape == (8, 8, 3)
    with pytest.raises(data.PictureError, match="has 3,145,728 bytes; expected at most 2,097,152"):
        source(class_folder, max_megabytes=2).encoded(0)


def source(root, **more):
    config = ConfigDict({**DEFAULTS, "name": "folder", "data_dir": str(root), **more})
    return data.make_source(config, "train")


def test_keys_are_checked(class_folder):
    for key, value in (("bits", 8), ("bits", 17), ("bits", -1), ("max_megabytes", 0)):
        with pytest.raises(UserError, match=f"data.{key}={value}.*expected bits of 0 or 9 to 16"):
            source(class_folder, **{key: value})
    config = ConfigDict({**DEFAULTS, "name": "folder", "data_dir": str(class_folder)})
    del config["bits"], config["max_megabytes"]  # as of an older workdir
    assert len(data.make_source(config, "train")) == 12


def test_bits_reach_the_pixels(class_folder, encode):
    path = class_folder / "train" / "cat" / "0.png"
    path.write_bytes(encode(Image.fromarray(np.full((8, 8), 4095, np.uint16))))
    assert source(class_folder)[0]["image"].max() == 15
    assert source(class_folder, bits=12)[0]["image"].min() == 255


def test_decoding_starts_no_program(tmp_path, monkeypatch):
    """EPS inside x.jpg starts Ghostscript in a reader that opens every format."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.setattr(os, "system", lambda *a: started.append(a))
    body = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "x.jpg").write_bytes(body)
    with pytest.raises(data.PictureError, match="cannot be decoded: cannot identify"):
        Picture.read(tmp_path / "x.jpg").pixels()
    assert not started


def test_scans_of_a_jpeg_are_bounded(encode):
    full = encode(np.zeros((16, 16, 3), np.uint8), "JPEG", progressive=True)
    place = full.rindex(b"\xff\xda")
    with pytest.raises(data.PictureError, match="more than 500 scans"):
        data.decode(full[:place] + full[place:-2] * 600 + b"\xff\xd9", "x")


def test_load_truncated_images_is_refused(encode, colours, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match="LOAD_TRUNCATED_IMAGES is set") as caught:
        data.decode(encode(colours), "x")
    assert not isinstance(caught.value, data.PictureError)  # so that nothing is skipped
