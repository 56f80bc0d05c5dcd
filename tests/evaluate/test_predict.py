"""`jssl predict`: the classes of pictures as a table, without the data of the run."""

import contextlib
import csv
import shutil

import jax
import numpy as np
import pytest
from helpers import made_up_run, small_config, stored_run
from PIL import Image

import jssl
from jssl import files
from jssl.data import photos
from jssl.errors import UserError
from jssl.main import main
from jssl.run import checkpoint, workdir

NAMES = tuple(f"class {i}" for i in range(16))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven pictures of mixed sizes in nested folders, three of them in one."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(7):
        path = root / ("a" if i < 3 else "b/c") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos.read(i)[: 50 + 9 * i, : 90 - 7 * i]).save(path)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    """A run of `supervised` on a folder that is gone."""
    folder = tmp_path_factory.mktemp("run") / "supervised"
    config = small_config("supervised", launch="jit")
    stored_run(config, folder, photos.load("test", 32)[0][::150])
    _, state = jssl.load_encoder(folder)
    saved = checkpoint.Checkpoints(folder, method="supervised")
    with contextlib.closing(saved):  # logits of 1e7 would leave no doubt
        doubtful = jax.tree.map(lambda x: x / 1e7, state.params["classifier"])
        saved.save(2, state.replace(params={**state.params, "classifier": doubtful}), {})
    files.write_json(folder / workdir.CLASSES, list(NAMES))
    stored = workdir.read_json(folder / "config.json")
    stored["data"].update({"name": "folder", "data_dir": "/gone"})
    files.write_json(folder / "config.json", stored)
    return folder


def predict(run, output, *flags):
    main(["predict", f"--workdir={run}", f"--output={output}", *flags])
    with open(output, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_most_probable_classes_of_every_picture(run, pictures, tmp_path):
    rows = predict(run, tmp_path / "p.csv", f"--input={pictures}")
    paths = sorted(str(path) for path in pictures.rglob("*.png"))
    assert [row["path"] for row in rows] == paths
    columns = [f"{what}_{k}" for k in range(1, 6) for what in ("class", "probability")]
    assert list(rows[0]) == ["path", *columns, "error"]
    logits = jssl.Encoder(run, feature="logits")(paths).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert ((0.01 < expected) & (expected < 0.99)).any()  # not all of them are sure
    order = np.argsort(-expected, axis=1)[:, :5]
    found = [[NAMES.index(row[f"class_{k}"]) for k in range(1, 6)] for row in rows]
    assert found == order.tolist()
    assert len(set(map(tuple, found))) > 1
    probabilities = [[float(row[f"probability_{k}"]) for k in range(1, 6)] for row in rows]
    np.testing.assert_allclose(
        probabilities, np.take_along_axis(expected, order, axis=1), atol=2e-6
    )
    assert {row["error"] for row in rows} == {""}


def test_files_folders_and_patterns_in_the_order_of_the_line(run, pictures, tmp_path):
    last, first = pictures / "b/c/6.png", pictures / "a/1.png"
    inputs = [f"--input={last}", str(first), "--input", str(pictures / "*" / "[01].png"),
              str(pictures / "**" / "5.png"), f"--input={pictures / 'b'}"]  # fmt: skip
    rows = predict(run, tmp_path / "p.csv", *inputs, "--top_k=1")
    names = [row["path"].rpartition("/")[2] for row in rows]
    assert names == ["6.png", "1.png", "0.png", "5.png", "3.png", "4.png"]
    assert list(rows[0]) == ["path", "class_1", "probability_1", "error"]


def test_pictures_that_cannot_be_read_have_a_row_that_says_why(run, pictures, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(pictures / "a", mixed)
    broken = mixed / "1.png"
    broken.write_bytes(broken.read_bytes()[:90])
    (mixed / "text.jpg").write_text("no picture")
    link = tmp_path / "link.png"
    link.symlink_to("nothing")
    rows = predict(run, tmp_path / "p.csv", f"--input={mixed}", str(link))
    said = capsys.readouterr().out
    assert [row["path"] for row in rows if row["error"]] == [
        str(mixed / "1.png"), str(mixed / "text.jpg"), str(link)]  # fmt: skip
    assert f"3 of 5 pictures could not be read: '{mixed / '1.png'}', '{mixed / 'text.jpg'}'" in said
    assert {row["class_1"] for row in rows if row["error"]} == {""}
    assert "text.jpg' cannot be decoded" in rows[3]["error"]
    assert "cannot be read: No such file" in rows[4]["error"]
    good = predict(run, tmp_path / "q.csv", f"--input={pictures / 'a'}")
    assert rows[0]["class_1"] == good[0]["class_1"] and rows[2]["class_5"] == good[2]["class_5"]
    with pytest.raises(UserError, match="None of the 2 pictures can be read, the first: Picture"):
        predict(run, tmp_path / "r.csv", "--input", str(broken), str(mixed / "text.jpg"))
    assert not (tmp_path / "r.csv").exists()


def test_classes_without_names_are_numbers(run, pictures, tmp_path, capsys):
    nameless = tmp_path / "run"
    shutil.copytree(run, nameless)
    (nameless / workdir.CLASSES).unlink()
    rows = predict(nameless, tmp_path / "p.csv", f"--input={pictures / 'a'}", "--top_k=16")
    assert "have no names: they are given by number" in capsys.readouterr().out
    assert sorted(int(rows[0][f"class_{k}"]) for k in range(1, 17)) == list(range(16))


def test_a_run_without_a_classifier_is_refused(pictures, tmp_path):
    made_up_run(small_config("simclr", launch="jit"), tmp_path / "simclr", start=0.01)
    refused = "of method 'simclr' has no classifier: .*Fine-tune it: jssl train"
    with pytest.raises(UserError, match=refused):
        predict(tmp_path / "simclr", tmp_path / "p.csv", f"--input={pictures}")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ([], "--input is missing. Type --input=FILE_OR_FOLDER."),
        (["--input=no.jpg"], "'no.jpg' does not exist: expected a picture, a folder or a pattern"),
        (["--input=*.jpg"], "'*.jpg' matches 0 files and no picture"),
        (["--input=empty"], "Folder 'empty' holds no pictures"),
        (["--input=empty", "--output=p.txt"], "must end with .csv"),
        (["--input=empty", "--output=no/p.csv"], "cannot be written (No such file"),
        (["--input=empty", "--top_k=0"], "--top_k expects 1 or more, found 0"),
        (["--input=empty", "--weights=no.pth", "--output=p.txt"], "must end with .csv"),
    ],
)
def test_mistakes_are_refused_before_it_computes(run, tmp_path, monkeypatch, flags, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jssl.run.build.load_encoder", lambda *a, **k: pytest.fail("computed"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        main(["predict", f"--workdir={run}", "--output=p.csv", *flags])
    assert refused in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_more_classes_than_there_are(run, pictures, tmp_path):
    with pytest.raises(UserError, match="--top_k=17, but the run has 16 classes. Type --top_k=16."):
        predict(run, tmp_path / "p.csv", f"--input={pictures}", "--top_k=17")
