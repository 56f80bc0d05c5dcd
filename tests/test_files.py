"""Files are written whole or not at all, and what cannot be written is refused beforehand."""

import json
import os
import re
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT, small_config
from runs import finished_run

from jssl import evaluate, files
from jssl.compile import table as fit_table
from jssl.errors import NotWrittenError, UserError, WriteError
from jssl.run import results, workdir
from jssl.run.train import train

FULL = OSError(28, "No space left on device")


def full_disk():
    """Lets files be opened and not be finished, as a disk that fills up does."""
    return mock.patch.object(files.os, "fsync", side_effect=FULL)


def test_a_failed_write_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / ("n" * 251 + ".npz")  # as long as a name may be
    files.write_bytes(path, b"old")
    os.chmod(path, 0o640)
    for write in (
        lambda: files.write_text(path, "new"),
        lambda: files.write_json(path, {"a": 1}),
        lambda: files.write_npz(path, a=np.zeros(3)),
    ):
        with full_disk(), pytest.raises(OSError, match="No space left"):
            write()
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    files.write_npz(path, a=np.arange(3))
    with np.load(path) as found:
        assert found["a"].tolist() == [0, 1, 2]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "real.txt")
    files.write_text(link, "text")
    assert link.is_symlink() and (tmp_path / "there" / "real.txt").read_text() == "text"


# How Python and its libraries write a file; `open(path, "a")` is for logs, which only grow.
WRITERS = re.compile(
    r"""\.write_text\((?!self)|\.write_bytes\(|open\([^)\n]*["'][wx]b?\+?["']|np\.savez|np\.save\(|"""
    r"""json\.dump\(|pickle\.dump\(|os\.rename\(|os\.replace\("""
)
NAMED = {
    ("unpack.py", 'open(path, "xb"'),  # members of an archive, into a folder that is made whole
    ("checksums.py", ".write_text("),  # an object of a bucket, which is whole or not there
}


def test_all_files_are_written_by_jssl_files():
    found = set()
    for path in sorted((ROOT / "jssl").rglob("*.py")):
        if path.name == "files.py":
            continue
        for line in path.read_text().splitlines():
            code = line.partition("#")[0]
            if not code.strip().startswith((">>>", "...")):
                found |= {
                    (path.name, mark)
                    for mark in WRITERS.findall(code.replace("files.write_", "files.wrote_"))
                }
    assert found == NAMED


PAGE = f"head\n{results.BEGIN}\nold\n{results.END}\ntail\n"


def test_a_report_on_a_full_disk_leaves_the_page_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "load_records", lambda folder: [])
    monkeypatch.setattr(results, "table", lambda records: "new")
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    with full_disk(), pytest.raises(WriteError, match="is unchanged: .*No space left"):
        results.report(tmp_path, readme=page)
    assert page.read_text() == PAGE
    results.report(tmp_path, readme=page)
    assert page.read_text() == PAGE.replace("old", "new")
    tables = "".join(f"{begin}old{end}" for begin, end in fit_table.MARKS.values())
    page.write_text(tables)
    monkeypatch.setattr(fit_table, "load", lambda folder: [])
    with full_disk(), pytest.raises(OSError, match="No space"):
        fit_table.main(str(tmp_path), str(page))
    assert page.read_text() == tables


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = small_config("simclr")
    config.data.update({"name": "synthetic", "num_examples": 64})
    return finished_run(config, tmp_path_factory.mktemp("a = 'run', {0} %41"))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("nowhere/f.npz", "cannot be written .No such file or directory.: expected a folder that"),
        ("f.npy", "must end with .npz, .csv or .parquet, found .*Type --output=.*f.npy.npz"),
        ("f", "must end with .npz"),
        ("folder.npz", "is no file but a folder"),
        ("f" * 252 + ".npz", "File name too long"),
    ],
)
def test_embed_refuses_an_output_before_it_computes(run, tmp_path, monkeypatch, output, said):
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr("jssl.run.build.load_encoder", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(UserError, match=said):
        evaluate.embed_run(run, output=tmp_path / output, feature="backbone")
    with full_disk(), pytest.raises(UserError, match="No space left on device"):
        evaluate.embed_run(run, output=tmp_path / "f.npz", feature="backbone")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.npz"]


def test_evaluate_refuses_a_full_workdir_before_it_computes(run, monkeypatch):
    monkeypatch.setattr("jssl.evaluate.context.Context.load", lambda *a: pytest.fail("computed"))
    with full_disk(), pytest.raises(UserError, match="go to .*evaluation, which cannot be"):
        evaluate.evaluate_run(run, protocols=["knn"])


def test_a_disk_that_fills_during_an_evaluation_loses_no_result(run, capsys):
    """The probe of the folders passes; the record is what does not fit any more."""

    def fill(path, text):
        raise FULL

    with mock.patch("jssl.evaluate.run.files.write_bytes", fill):
        with pytest.raises(SystemExit) as error:
            evaluate.evaluate_run(run, protocols=["knn"])
    assert isinstance(error.value, NotWrittenError)
    assert re.fullmatch(
        r"jssl: not written: .*evaluation/knn.json \(No space left on device\)\.", str(error.value)
    )
    assert error.value.code == str(error.value)  # Python prints it and ends with status 1
    assert "kNN" in capsys.readouterr().out
    assert not (run / "evaluation" / "knn.json").exists()


@pytest.mark.parametrize(
    "name", ["a b", "50%", "{}", "{0}", "new\nline", "a=b", "a,b", "-dash", "dot.", "n" * 255, "12"]
)
def test_a_workdir_may_have_any_name_valid_for_checkpoints(tmp_path, name):
    folder = finished_run(small_config("simclr"), workdir.make_folder(tmp_path / name))
    assert json.loads((folder / "config.json").read_text())["method"] == "simclr"
    assert [p.name for p in folder.glob("checkpoints/*")] == ["0"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (os.fsdecode(b"non\xffutf"), r"bytes that are not UTF-8.*non\\udcffutf"),
        ("back\\slash", r"the character \\"),
        ("a[1]", r"the character \["),
        ("what?", r"the character \?"),
        ("all*", r"the character \*"),
        ("n" * 256, "File name too long"),
        ("/".join(["n" * 250] * 15), r"bytes, more than 3796"),
    ],
)
def test_other_names_are_refused_before_training(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        train(small_config("simclr"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    finished_run(small_config("simclr"), tmp_path / "link")
    assert (tmp_path / "real" / "checkpoints" / "0").is_dir()
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="cannot be written"):
        workdir.make_folder(tmp_path / "gone")
