"""`--protocol=classifier`: top-1, top-5, accuracy by class, and the confusion matrix."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import small_config
from PIL import Image
from runs import finished_run
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from jssl import data
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate.confusion import confusion_counts, confusion_csv, confusion_picture
from jssl.evaluate.protocols import classifier
from jssl.main import main
from jssl.run import workdir

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("K", "count"), [(2, 30), (7, 200), (30, 50)])
def test_counts_are_those_of_sklearn(K, count):
    labels, predicted = RNG.integers(0, K, (2, count))
    np.testing.assert_array_equal(
        confusion_counts(predicted, labels, K),
        confusion_matrix(labels, predicted, labels=range(K)),
    )


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_label_outside_the_classes_is_refused(bad):
    with pytest.raises(UserError, match=f"has 3 classes, but a label is {bad}: expected 0 to 2"):
        confusion_counts(np.array([0, 1]), np.array([0, bad]), 3)


@pytest.mark.parametrize("K", [2, 16, 60, 300, 700, 2500])
def test_the_picture_is_dark_where_the_shares_are(K):
    """Of all classes the first is predicted: a column of cells, from the first to the last row."""
    counts = np.zeros((K, K), int)
    counts[:, 0] = 10
    picture = np.asarray(confusion_picture(counts, [f"class {i}" for i in range(K)]))
    assert max(picture.shape) < 2600
    dark = (picture == (8, 48, 107)).all(axis=-1)
    # The scale below the matrix has a square of that colour too, of at most 17 rows.
    side = dark.sum(axis=0).max()
    column = np.flatnonzero(dark.sum(axis=0) > 17)
    assert side >= 2 * 64 and len(column) >= 2
    assert len(column) / side < 1.05 / min(K, 500)  # the width of one class, not more


def test_names_that_are_odd_are_quoted_in_the_table():
    text = confusion_csv(np.array([[1, 2], [3, 4]]), ['a,"b"', "ä\n"]).decode()
    rows = list(csv.reader(text.splitlines()))
    assert rows == [["true / predicted", 'a,"b"', "ä\\n"], ['a,"b"', "1", "2"], ["ä\\n", "3", "4"]]


def context(logits, labels, names, imported=False):
    source = SimpleNamespace(name="toy", class_names=names, num_classes=len(names))
    return SimpleNamespace(
        classified=(np.asarray(logits), np.asarray(labels)),
        imported=imported,
        classify=lambda kind: (-np.asarray(logits), np.asarray(labels)),
        sources=(source, source),
        outputs={"logits": ()},
        other_classes=lambda source: "",
        folder="no such folder",
    )


def test_top_five_only_where_there_are_more_classes():
    names = tuple("abcdefgh")
    logits, labels = RNG.normal(size=(64, 8)), RNG.integers(0, 7, 64)
    top1, top5, mean = classifier.run(context(logits, labels, names))
    number = top1["numbers"]["trained"]
    assert top5["metric"] == "top-5" and top5["numbers"]["trained"]["count"] == 64
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(8))
    assert top5["numbers"]["trained"]["value"] == number["top5"] == pytest.approx(expected)
    low, high = top5["numbers"]["trained"]["ci95"]
    assert low < expected < high
    recalls = recall_score(labels, logits.argmax(1), labels=range(7), average=None)
    assert [entry["class"] for entry in number["per_class"]] == list("abcdefg")  # h has no example
    assert [entry["top1"] for entry in number["per_class"]] == pytest.approx(recalls.tolist())
    assert [entry["count"] for entry in number["per_class"]] == np.bincount(labels).tolist()
    assert mean["metric"] == "mean per class"
    found = mean["numbers"]["trained"]
    assert found["value"] == number["mean_per_class"] == pytest.approx(recalls.mean())
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    few, mean = classifier.run(context(logits[:, :5], labels % 5, names[:5]))
    assert "top5" not in few["numbers"]["trained"] and mean["metric"] == "mean per class"


def test_the_untrained_network_is_beside_but_not_of_published_weights():
    logits, labels = np.eye(8)[RNG.integers(0, 8, 64)], RNG.integers(0, 8, 64)
    rows = classifier.run(context(logits, labels, "abcdefgh"))
    assert [list(row["numbers"]) for row in rows] == [["trained", "untrained"]] * 3
    other = rows[0]["numbers"]["untrained"]
    assert (
        other["top1"]
        == np.mean(np.argmax(-logits, axis=1) == labels)
        == rows[0]["top1"]["untrained"]
    )
    assert other["feature"] == "untrained logits" and "per_class" not in other
    alone = classifier.run(context(logits, labels, "abcdefgh", imported=True))
    assert [list(row["numbers"]) for row in alone] == [["trained"]] * 3


def test_too_many_classes_have_no_matrix(monkeypatch, capsys):
    monkeypatch.setattr(classifier, "MOST_CLASSES", 2)
    assert classifier.files_of(context(np.eye(3), np.arange(3), ("a", "b", "c"))) == {}
    assert "no confusion matrix is written: 3 classes" in capsys.readouterr().out


def test_the_files_are_beside_the_record(tmp_path, capsys):
    config = small_config("supervised", launch="jit")
    config.supervised.num_classes = 16
    folder = finished_run(config, tmp_path / "run")
    workdir.write_json(folder / "classes.json", list(photos.CLASS_NAMES))
    main(["evaluate", f"--workdir={folder}", "--protocol=classifier"])
    out = capsys.readouterr().out
    assert "top-5" in out and str(folder / "evaluation" / "confusion.csv") in out
    record = json.loads((folder / "evaluation" / "classifier.json").read_text())
    number = record["rows"][0]["numbers"]["trained"]
    # The untrained classifier starts from its own draw: another number than the trained one's.
    assert record["rows"][0]["numbers"]["untrained"]["count"] == 1200
    with open(folder / "evaluation" / "confusion.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(photos.CLASS_NAMES)
    counts = np.array([row[1:] for row in rows], int)
    labels = data.make_source(config.data, "test").labels
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(labels))
    assert counts.trace() == number["correct"] and counts.sum() == number["count"] == 1200
    shares = [entry["top1"] for entry in number["per_class"]]
    assert shares == pytest.approx((counts.diagonal() / counts.sum(axis=1)).tolist())
    assert np.mean(shares) == pytest.approx(number["mean_per_class"])
    with Image.open(folder / "evaluation" / "confusion.png") as picture:
        assert picture.format == "PNG"
    # A dry run never replaces them.
    main(["evaluate", f"--workdir={folder}", "--protocol=classifier", "--limit=4"])
    names = sorted(path.name for path in (folder / "evaluation" / "dry_run").iterdir())
    assert names == ["classifier_limit_4.json", "confusion_limit_4.csv", "confusion_limit_4.png"]
    # Other names of classes are refused, not compared by number.
    workdir.write_json(folder / "classes.json", [*"abcdefghijklmnop"])
    with pytest.raises(UserError, match="own classifier and data set 'photos' have different cl"):
        main(["evaluate", f"--workdir={folder}", "--protocol=classifier"])
