"""The pages in docs/ say what the code is."""

import os
import re

import pytest
import rooms
from helpers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"])
UPDATE = "run `JSSL_UPDATE_GOLDEN=1 pytest tests/test_docs.py` and commit the new file"


@pytest.mark.parametrize("name, make", [("rooms.txt", rooms.text), ("rooms.svg", rooms.svg)])
def test_the_picture_of_the_rooms_is_that_of_the_code(name, make):
    path = DOCS / name
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.write_text(make())
    assert path.read_text() == make(), f"docs/{name} is of older code: {UPDATE}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(page):
    """`jssl/run/train.py` and [text](architecture.md); words with NAME or * stand for a choice."""
    text = page.read_text()
    named = re.findall(r"`((?:jssl|tests|configs|docs|launch)/[\w./-]+)`", text)
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    paths = [ROOT / path for path in named if "NAME" not in path]
    paths += [page.parent / path for path in linked]
    missing = [path for path in paths if not path.exists()]
    assert not missing, f"{page.name} names files that are not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_names_that_a_page_takes_from_a_file_are_in_it(page):
    """`name` (`jssl/file.py`): the file has the name."""
    pairs = re.findall(r"`([\w.]+)`\s+\(`((?:jssl|tests)/[\w./]+\.py)`\)", page.read_text())
    for name, path in pairs:
        last = name.rpartition(".")[2]
        found = re.search(rf"\b{last}\b", (ROOT / path).read_text())
        assert found, f"{page.name}: {path} has no '{name}'"
