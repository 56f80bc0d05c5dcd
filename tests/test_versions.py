"""What a run was made with: jssl's own commit and no other's, and no path of a machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import jssl
from jssl.run import versions


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "mine")
    return tmp_path


def test_the_commit_is_read_in_the_folder_of_the_package():
    """That of a checkout, and the file that the build hook puts into a wheel."""
    assert versions.PACKAGE == Path(jssl.__file__).parent
    place = versions.COMMIT_FILE.relative_to(versions.PACKAGE.parent).as_posix()
    assert f'["force_include"][str(file)] = "{place}"' in (ROOT / "hatch_build.py").read_text()


def test_the_users_repository_is_not_taken_for_jssls(repository, monkeypatch):
    """A wheel in an environment that lies in the user's repository."""
    package = repository / ".venv" / "site-packages" / "jssl"
    package.mkdir(parents=True)
    monkeypatch.setattr(versions, "PACKAGE", package)
    monkeypatch.setattr(versions, "COMMIT_FILE", package / "COMMIT")
    monkeypatch.chdir(repository)
    assert versions.jssl_commit() == "unknown"
    assert re.fullmatch(r"[0-9a-f]{12}", versions.user_commit())
    (package / "COMMIT").write_text("0123456789ab\n")
    assert versions.jssl_commit() == "0123456789ab"


def test_the_commit_of_a_checkout(repository, monkeypatch):
    (repository / "jssl").mkdir()
    monkeypatch.setattr(versions, "PACKAGE", repository / "jssl")
    monkeypatch.setattr(versions, "COMMIT_FILE", repository / "jssl" / "COMMIT")
    assert versions.jssl_commit() == "unknown"  # some other project with a folder of that name
    (repository / "pyproject.toml").write_text("")
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", versions.jssl_commit())
    monkeypatch.chdir(repository)
    assert versions.user_commit() == ""  # it is jssl's own


def test_a_run_records_no_absolute_path(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/x/bin/jssl", "train", "--workdir=/mnt/a/run", "/data"])
    assert versions.collect()["command"] == "jssl train --workdir=.../run .../data"


PATHS = re.compile(r"""(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+""")


@pytest.mark.parametrize("folder", ["configs/results", "launch/records", "tests/golden"])
def test_no_shipped_record_holds_an_absolute_path(folder):
    files = [*(ROOT / folder).rglob("*.json"), *(ROOT / folder).rglob("*.txt")]
    assert files
    for path in files:
        text = path.read_text()
        if path.suffix == ".json":
            json.loads(text)
        assert not PATHS.findall(text), path
