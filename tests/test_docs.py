"""The pages in docs/ say what the code is."""

import doctest
import importlib.util
import os
import re
import shlex

import ablations_page
import benchmarks_page
import dense_page
import lite0_page
import methods_page
import protocols_page
import pytest
import random_alexnet_page
import rooms
from helpers import ROOT

from jssl import evaluate, methods
from jssl.flags import parse
from jssl.run import config_file

DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), *map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]
)
UPDATE = "run `JSSL_UPDATE_GOLDEN=1 pytest tests/test_docs.py` and commit the new file"


@pytest.mark.parametrize("name, make", [("rooms.txt", rooms.text), ("rooms.svg", rooms.svg)])
def test_the_picture_of_the_imports_is_up_to_date(name, make):
    path = DOCS / name
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.write_text(make())
    assert path.read_text() == make(), f"docs/{name} is of older code: {UPDATE}"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ablations.md", ablations_page.page),
        ("benchmarks.md", benchmarks_page.page),
        ("dense.md", dense_page.page),
        ("index.md", methods_page.with_short),
        ("../README.md", methods_page.with_short),
        ("lite0.md", lite0_page.page),
        ("protocols.md", protocols_page.page),
        ("random_features.md", random_alexnet_page.page),
    ],
)
def test_the_tables_of_a_page_are_those_of_the_records(name, make):
    path = DOCS / name
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.write_text(make(path.read_text()))
    assert path.read_text() == make(path.read_text()), f"docs/{name} is old: {UPDATE}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_a_page_exist(page):
    """`jssl/run/train.py` and [text](architecture.md); NAME and FILE stand for new ones."""
    text = page.read_text()
    named = re.findall(r"`((?:jssl|tests|configs|docs|launch)/[\w./-]+)`", text)
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    paths = [ROOT / path for path in named if not re.search("NAME|FILE", path)]
    paths += [page.parent / path for path in linked]
    missing = [path for path in paths if not path.exists()]
    assert not missing, f"{page.name} names files that are not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_cited_in_a_page_are_in_the_cited_file(page):
    """`name` (`jssl/file.py`): the file has the name."""
    pairs = re.findall(r"`([\w.]+)`\s+\(`((?:jssl|tests)/[\w./]+\.py)`\)", page.read_text())
    for name, path in pairs:
        last = name.rpartition(".")[2]
        found = re.search(rf"\b{last}\b", (ROOT / path).read_text())
        assert found, f"{page.name}: {path} has no '{name}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of_a_page_run_as_they_are_printed(page):
    """Blocks of `pycon`, one after the other."""
    code = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(), re.DOTALL))
    test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", methods.names())
def test_the_page_of_a_method(name):
    """Its settings and numbers are the code's and the records', and it has all its parts."""
    path = DOCS / "methods" / f"{name}.md"
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.write_text(methods_page.page(name, path.read_text()))
    text = path.read_text()
    assert text == methods_page.page(name, text), f"docs/methods/{name}.md is old: {UPDATE}"
    parts = ["The loss", "Train it", "When to choose it", "Pitfalls", "Numbers", "Settings"]
    assert re.findall("^## (.*)$", text, re.MULTILINE) == parts
    assert f"configs/{name}_photos.py" in text and "```pycon" in text
    assert f"methods/{name}.md" in (DOCS / "mkdocs.yml").read_text()


def test_every_protocol_is_in_the_table():
    assert list(protocols_page.WORDS) == list(evaluate.PROTOCOLS)


# The pages whose commands are tried; those of reproduce.md are tried in tests/test_reproduce.py.
TRIED = [
    ROOT / "README.md",
    DOCS / "training.md",
    DOCS / "index.md",
    DOCS / "protocols.md",
    *sorted(DOCS.glob("methods/*.md")),
]
COMMANDS = [
    (str(path.relative_to(ROOT)), command)
    for path in TRIED
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    for command in re.findall(r"^jssl .*$", block.replace("\\\n", ""), re.MULTILINE)
]


@pytest.mark.parametrize("page, text", COMMANDS)
def test_commands_of_a_page_are_taken(page, text):
    """By the parser, and the config with its switches; workdirs that it names are not there."""
    _, command, *args = shlex.split(text, comments=True)
    flags = parse(command, args)
    if command == "evaluate":
        given = {k: v for k, v in vars(flags).items() if k in evaluate.Settings._fields}
        given = {k: v for k, v in given.items() if v is not None}
        evaluate.check_settings(flags.protocol.split(","), given)
    if command == "train" and flags.config:
        path, _, switches = flags.config.partition(":")
        switches = ",".join(s for s in switches.split(",") if "=runs/" not in s)
        config = config_file.load(f"{ROOT / path}:{switches}")
        for key, value in flags.settings:
            config_file.override(config, key, value)


def test_modules_in_the_changelogs_table_exist():
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^\| (`jssl.*) \| `(jssl\.[^`]+)`.*\|$", text, re.M)
    assert len(rows) > 70
    for _, now in rows:
        base, _, choices = now.partition("{")
        for end in choices.strip("}").split(","):
            parent, _, last = f"{base}{end}".rpartition(".")
            found = importlib.import_module(parent)
            assert hasattr(found, last) or importlib.util.find_spec(f"{base}{end}"), now
