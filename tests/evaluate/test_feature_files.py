"""`jssl embed`: which pictures, in which file, with what beside the features."""

import csv
import sys

import numpy as np
import pytest
from helpers import made_up_run, small_config
from PIL import Image
from pyarrow import parquet

from jssl import data, evaluate
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate.context import data_config
from jssl.evaluate.feature_files import Table, save_features
from jssl.main import main
from jssl.run import workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "byol"
    config = small_config("byol", launch="jit")
    config.data.update({"name": "synthetic", "num_examples": 40, "eval_crop": 0.5})
    made_up_run(config, folder, start=0.01)
    return folder


def pictures(root, names):
    """Writes a picture of another size at each name."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos.read(i)[: 40 + i, : 60 - i]).save(path)
    return root


def embed(run, output, *flags):
    main(["embed", f"--workdir={run}", f"--output={output}", *flags])
    if output.suffix == ".npz":
        with np.load(output) as saved:
            return {name: saved[name] for name in saved.files}
    with open(output, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SPLITS = ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/ä, \n.png"]


def test_all_pictures_of_a_folder_with_path_class_and_size(run, tmp_path, capsys):
    root = pictures(tmp_path / "p", SPLITS)
    saved = embed(run, tmp_path / "x.npz", f"--data={root}")
    assert "all data: folder 'p' read as splits" in capsys.readouterr().out
    expected = [str(root / name) for name in SPLITS]
    assert saved["paths"].tolist() == [path.replace("\n", "\\n") for path in expected]
    assert saved["sizes"].tolist() == [[40 + i, 60 - i] for i in range(4)]
    assert saved["labels"].tolist() == [0, 1, 0, 1]
    assert saved["class_names"].tolist() == ["cat", "dog"]
    assert saved["indices"].tolist() == [0, 1, 2, 3]
    old = embed(run, tmp_path / "y.npz", "--source=folder", f"--data_dir={root}", "--split=train")
    assert old["paths"].tolist() == expected[:2]
    np.testing.assert_allclose(old["features"], saved["features"][:2], rtol=1e-5)
    few = embed(run, tmp_path / "z.npz", f"--data={root}", "--limit=2")
    assert few["paths"].tolist() == [saved["paths"][0], saved["paths"][3]]
    assert few["sizes"].tolist() == [[40, 60], [43, 57]]


def test_csv_and_parquet_hold_what_npz_holds(run, tmp_path):
    root = pictures(tmp_path / "p", ["cat/1.png", "dog/2.png", "dog/3.png"])
    saved = embed(run, tmp_path / "x.npz", f"--data={root}")
    rows = embed(run, tmp_path / "x.csv", f"--data={root}")
    width = saved["features"].shape[1]
    assert list(rows[0]) == ["path", "index", "label", "class", "height", "width",
                             *(f"f{i}" for i in range(width))]  # fmt: skip
    assert [row["path"] for row in rows] == saved["paths"].tolist()
    assert [row["class"] for row in rows] == ["cat", "dog", "dog"]
    assert [(row["height"], row["width"]) for row in rows] == [(str(40 + i), str(60 - i))
                                                               for i in range(3)]  # fmt: skip
    features = [[np.float32(row[f"f{i}"]) for i in range(width)] for row in rows]
    np.testing.assert_array_equal(features, saved["features"])
    embed_parquet = ["embed", f"--workdir={run}", f"--data={root}"]
    main([*embed_parquet, f"--output={tmp_path / 'x.parquet'}"])
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    np.testing.assert_array_equal(np.float32(table["features"]), saved["features"])
    assert table["class"] == ["cat", "dog", "dog"] and table["path"] == saved["paths"].tolist()


def test_named_data_sets_keep_their_test_split(run, tmp_path, capsys):
    rows = embed(run, tmp_path / "x.csv")
    assert "test data: synthetic: 10 pictures" in capsys.readouterr().out
    assert len(rows) == 10 and "path" not in rows[0] and rows[3]["index"] == rows[3]["label"] == "3"
    assert "paths" not in embed(run, tmp_path / "x.npz")


def test_folders_without_a_layout_are_embedded_without_labels(run, tmp_path, capsys):
    names = ["1.png", "cat/2.png", "cat/deep/3.png", "dog/4.png"]
    saved = embed(run, tmp_path / "x.npz", f"--data={pictures(tmp_path / 'p', names)}")
    assert saved["paths"].tolist() == [str(tmp_path / "p" / name) for name in names]
    assert set(saved["labels"]) == {-1} and saved["class_names"].size == 0
    said = capsys.readouterr().out
    assert "4 pictures, all of them without labels. Folder" in said and "two ways" in said
    one = embed(run, tmp_path / "y.npz", f"--data={pictures(tmp_path / 'q', ['cat/1.png'])}")
    assert len(one["paths"]) == 1
    (tmp_path / "s" / "val").mkdir(parents=True)  # a split without pictures
    split = embed(run, tmp_path / "s.npz", f"--data={pictures(tmp_path / 's', SPLITS[:2])}")
    assert split["labels"].tolist() == [0, 1]
    flat = embed(run, tmp_path / "z.npz", f"--data={pictures(tmp_path / 'r', ['1.png'])}")
    assert flat["paths"].tolist() == [str(tmp_path / "r" / "1.png")]


def test_a_picture_that_cannot_be_read_stops_or_is_left_out(run, tmp_path, capsys):
    root = pictures(tmp_path / "p", ["cat/1.png", "dog/2.png", "dog/3.png"])
    (root / "dog" / "2.png").write_text("no picture")
    command = ["embed", f"--workdir={run}", f"--data={root}", f"--output={tmp_path / 'x.csv'}"]
    with pytest.raises(UserError, match="2.png' cannot be decoded.*on_error=skip"):
        main(command)
    assert not (tmp_path / "x.csv").exists()
    rows = embed(run, tmp_path / "x.csv", f"--data={root}", "--on_error=skip")
    assert [row["path"] for row in rows] == [str(root / "cat/1.png"), str(root / "dog/3.png")]
    assert [(row["index"], row["height"]) for row in rows] == [("0", "40"), ("2", "42")]
    assert "2.png' cannot be decoded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--data=p", "--source=photos"], "--data=FOLDER is short for --source=folder"),
        (["--data=p", "--data_dir=p"], "type one of the two"),
        (["--data=nowhere"], "Folder 'nowhere' does not exist"),
        (["--data=empty"], "Folder 'empty' holds no pictures"),
        (["--data=empty", "--on_error=sky"], "Unknown policy data.on_error='sky': did you mean"),
        (["--data="], "needs a folder of pictures"),
        (["--data=p", "--output=x.txt"], "must end with .npz, .csv or .parquet, found 'x.txt'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_computed(
    run, tmp_path, monkeypatch, flags, refused
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jssl.run.build.load_encoder", lambda *a, **k: pytest.fail("computed"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=refused):
        main(["embed", f"--workdir={run}", "--output=x.csv", *flags])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_parquet_without_pyarrow_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("jssl.run.build.load_encoder", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(UserError, match=r"pip install 'jssl\[parquet\]'"):
        evaluate.embed_run(run, output=tmp_path / "x.parquet", feature="backbone")


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    source = data.synthetic_source("test", size=4, num_examples=8)
    table = Table(np.ones((2, 3), np.float32), np.arange(2), np.arange(2), source)
    save_features(tmp_path / "x.csv", table)
    before = (tmp_path / "x.csv").read_text()
    assert before == "index,label,class,f0,f1,f2\n0,0,,1.0,1.0,1.0\n1,1,,1.0,1.0,1.0\n"

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="cannot be written .No space left on device"):
        save_features(tmp_path / "x.csv", table._replace(features=np.zeros((2, 3))))
    assert (tmp_path / "x.csv").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_another_data_set_keeps_the_evaluation_crop_of_the_run(run):
    config = workdir.read_config(run)
    assert data_config(config, "folder", "p").eval_crop == 0.5
    assert data_config(config, "folder", "p").num_examples == data.DEFAULTS["num_examples"]
