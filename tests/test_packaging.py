"""The distributions: complete metadata, and a source archive with everything that git has."""

import subprocess
import sys
import tarfile
import zipfile

import pytest
from helpers import ROOT

import jssl


def run(*command):
    command = [sys.executable, "-m", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """{'sdist': path, 'wheel': path}; the wheel is built from the source archive, as by pip."""
    folder = tmp_path_factory.mktemp("dist")
    run("hatchling", "build", "-t", "sdist", "-d", str(folder))
    (sdist,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", sdist], cwd=folder, check=True)
    source = folder / sdist.name.removesuffix(".tar.gz")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"sdist": sdist, "wheel": next(folder.glob("*.whl"))}


def test_the_metadata_are_complete(built):
    shown = run("twine", "check", "--strict", *map(str, built.values()))
    assert shown.count("PASSED") == 2


def test_the_wheel_has_the_package_and_its_data(built):
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "jssl").rglob("*.py")}
    configs = {f"jssl/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    needed = {"jssl/py.typed", "jssl/report/page.html.jinja", "jssl/COMMIT"}
    assert len(package) > 200 and not (package | configs | needed) - names
    assert not [name for name in names if not name.startswith(("jssl/", "jssl-"))]


def test_the_source_archive_is_the_repository(built):
    # New files that are not committed yet go into an archive too.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, "this test runs in a checkout; in a source archive use -m quick"
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {*listed.stdout.split("\n"), "PKG-INFO", "jssl/COMMIT"} - {""}


def test_the_version_is_that_of_the_package():
    assert f'version = "{jssl.__version__}"' in (ROOT / "pyproject.toml").read_text()
