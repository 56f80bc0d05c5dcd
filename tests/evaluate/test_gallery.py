"""The gallery of `jssl neighbors`: the right pictures, with their texts, in one file."""

import re

import numpy as np
import pytest
from gallery_page import Page
from PIL import Image

from jssl.evaluate import gallery
from jssl.evaluate.gallery import Row, write_gallery


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Pictures of one colour each, of several shapes; a name that is markup."""
    root = tmp_path_factory.mktemp("plain")
    names = ["red.png", "<b>&green.png", "blue.png"]
    for i, (name, shape) in enumerate(zip(names, [(400, 200), (20, 30), (50, 500)], strict=True)):
        pixels = np.zeros((*shape, 3), np.uint8)
        pixels[..., i] = 200
        Image.fromarray(pixels).save(root / name)
    return [str(root / name) for name in names]


def test_a_page_has_each_picture_with_its_text(plain, tmp_path):
    rows = [
        Row("first <i>", [(plain[0], "a & b"), (plain[1], "c")]),
        Row("second", [(plain[2], "d")]),
    ]
    assert write_gallery(tmp_path / "g.html", rows, title="T<>") == (2, 3)
    text = (tmp_path / "g.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == ["first <i>", "second"] and not re.search(r"<b>|<i>|<script", text)
    assert page.captions == [["a & b", plain[0]], ["c", plain[1]], ["d", plain[2]]]
    assert [p.shape for p in page.pictures] == [(160, 80, 3), (20, 30, 3), (16, 160, 3)]
    for i, picture in enumerate(page.pictures):
        assert np.abs(picture.mean(axis=(0, 1)) - 200 * np.eye(3)[i]).max() < 4


def test_a_sheet_has_each_picture_at_its_place(plain, tmp_path):
    rows = [Row("q", [(plain[i % 3], str(i)) for i in range(12)]), Row("r", [(plain[2], "x")])]
    write_gallery(tmp_path / "g.png", rows, title="T")
    with Image.open(tmp_path / "g.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[1] == 10 * 168 + 8
    top = 16 + 14 + 14
    for i in range(12):
        y, x = top + i // 10 * 196, 8 + i % 10 * 168
        assert sheet[y + 4, x + 4].tolist() == (200 * np.eye(3, dtype=int)[i % 3]).tolist(), i
    assert sheet[top + 2 * 196 + 14 + 8 + 4, 12].tolist() == [0, 0, 200]


def test_no_more_than_the_limit_and_a_lost_file_is_grey(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(gallery.MOST_PICTURES, ".html", 4)
    rows = [Row(str(i), [(path, "") for path in [*plain, "no_such.jpg"][-2:]]) for i in range(9)]
    assert write_gallery(tmp_path / "g.html", rows, title="") == (2, 4)
    page = Page((tmp_path / "g.html").read_text())
    assert len(page.pictures) == 4 and np.ptp(page.pictures[1].mean(axis=(0, 1))) < 1
