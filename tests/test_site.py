"""The site of docs/ is built without a warning, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["-f", str(ROOT / "docs" / "mkdocs.yml"), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def test_every_page_is_in_the_site(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    for page in pages:
        folder = page.parent if page.name == "index.md" else page.with_suffix("")
        assert (site / folder / "index.html").exists(), page


def test_a_page_loads_nothing_from_elsewhere(site):
    """Links may lead out; what a browser loads of itself may not."""
    loaded = re.compile(
        r"<(?:script|img|iframe|link)[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
    )
    for path in site.rglob("*.html"):
        assert not loaded.findall(path.read_text()), path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()), path


def test_texts_from_outside_of_docs_are_whole(site):
    pods = (site / "pods" / "index.html").read_text()
    assert "tpu_pod.sh" in pods and "When something dies" in pods and "include:" not in pods
    contributing = (site / "contributing" / "index.html").read_text()
    assert 'href="../architecture/"' in contributing


def test_the_reference_has_every_public_loss(site):
    from jssl import losses

    page = (site / "api" / "jssl.losses" / "index.html").read_text()
    missing = [name for name in losses.__all__ if f'<h2 id="{name}">' not in page]
    assert len(losses.__all__) > 20 and not missing
    words = re.sub("<[^>]*>", "", page)
    assert "Computes the softmax cross entropy" in words and "axis_name=None" in words
    for module in ("jssl", "jssl.augment", "jssl.methods", "jssl.optim", "jssl.evaluate"):
        text = (site / "api" / module / "index.html").read_text()
        assert " at 0x" not in text and text.count("<h2") > 4, module
