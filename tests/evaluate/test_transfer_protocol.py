"""`--protocol=transfer`: twelve sets, their metrics, and no choice by the test split."""

import io
import json

import numpy as np
import pytest
from helpers import small_config, stored_run, write_tfds
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from tensorflow_datasets.core.features import BBox

from jssl import data, evaluate
from jssl.data.photos import load
from jssl.data.tfds_source import make_builder
from jssl.errors import UserError
from jssl.evaluate import TRANSFER_SETS
from jssl.evaluate.probes import logistic_table
from jssl.evaluate.probes.softmax_regression import LinearHead
from jssl.evaluate.protocols import transfer

# Rows of class k show the photograph k. (labels of train, of validation or None, of test)
SMALL = {
    "caltech101": (np.arange(24) % 3, None, np.array([0] * 6 + [1] * 2 + [2] * 2)),
    "dtd": (np.arange(12) % 3, np.arange(6) % 3, np.arange(9) % 3),
    "voc2007": (np.arange(12) % 3, np.arange(9) % 3, np.arange(9) % 3),
}
SIZES = {"caltech101": (18, 6, 10), "dtd": (12, 6, 9), "voc2007": (12, 9, 9)}
DIFFICULT = 4  # of VOC's classes: each third image shows it, and only where it is hard to see


def picture(label, number):
    images, labels = load("train", 32)
    rows = np.flatnonzero(labels == label)
    buffer = io.BytesIO()
    Image.fromarray(images[rows[7 * number % len(rows)]]).save(buffer, "JPEG", quality=95)
    return io.BytesIO(buffer.getvalue())


def write(name, folder, labels):
    """A small version of a set by TFDS's own builder."""

    def examples(offset, labels):
        for i, label in enumerate(labels):
            box = {"bbox": BBox(0.0, 0.0, 1.0, 1.0), "pose": 0, "is_truncated": False}
            easy = {**box, "label": int(label), "is_difficult": False}
            hard = {**box, "label": DIFFICULT, "is_difficult": True}
            yield {
                "image": picture(int(label) % 16, offset + i),
                "label": int(label),
                "file_name": f"{i}.jpg",
                "image/file_name": f"{i}.jpg",
                "image/filename": f"{i}.jpg",
                "objects": [easy, hard] if i % 3 == 0 else [easy],
                "labels": sorted({int(label), DIFFICULT}) if i % 3 == 0 else [int(label)],
                "labels_no_difficult": [int(label)],
            }

    parts = dict(zip(("train", "validation", "test"), labels, strict=True))
    splits = {
        split: examples(100 * i, found)
        for i, (split, found) in enumerate(parts.items())
        if found is not None
    }
    write_tfds(name, folder, splits)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, labels in SMALL.items():
        write(name, folder, labels)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stored_run(small_config("simclr", launch="jit"), folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(logistic_table, "RAW_SIDE", 4)  # 48 raw pixels and not 3072: seconds
    monkeypatch.setattr(transfer, "BATCH", 3)  # every set is embedded by one program
    defaults = evaluate.transfer_row.__kwdefaults__
    assert defaults["regularizers"] == evaluate.REGULARIZERS and len(evaluate.REGULARIZERS) == 45
    monkeypatch.setitem(defaults, "regularizers", evaluate.REGULARIZERS[12:36:3])  # 8: seconds
    for name, sizes in SIZES.items():
        monkeypatch.setitem(TRANSFER_SETS, name, TRANSFER_SETS[name]._replace(sizes=sizes))


def test_two_sets_end_to_end(run, prepared, monkeypatch, capsys):
    assert transfer.KINDS == ("trained", "untrained", "raw pixels")
    monkeypatch.setattr(transfer, "KINDS", ("trained", "untrained"))  # one compilation
    settings = evaluate.Settings(source="caltech101,dtd", data_dir=str(prepared))
    rows = evaluate.evaluate_run(run, protocols=["transfer"], settings=settings)
    record = json.loads((run / "evaluation" / "transfer.json").read_text())
    assert record["rows"] == rows and record["data"]["parts"] == {"caltech101": 10, "dtd": 9}
    assert [row["source"] for row in rows] == ["caltech101", "dtd"]
    assert [row["metric"] for row in rows] == ["mean per class", "top-1"]
    for row, (name, sizes) in zip(rows, SIZES.items(), strict=False):
        assert list(row["numbers"]) == ["trained", "untrained"]
        trained, untrained = row["numbers"].values()
        assert trained["head_sha256"] != untrained["head_sha256"]
        for number in row["numbers"].values():
            assert number["count"] == sizes[2] and number["regularizer"] in evaluate.REGULARIZERS
            low, high = number["ci95"]
            assert 0 <= low <= number["value"] <= high <= 1
            for words in (f"on {sizes[1]} validation", f"the {sizes[0]} train", f"of {name}"):
                assert words in number["protocol"]
    assert "drawn from the train split" in rows[0]["protocol"]
    assert "of its own split" in rows[1]["protocol"]
    shown = capsys.readouterr().out
    assert "mean per class" in shown and "one of 8 from 0.001 to 177.828" in shown


def test_poisoned_test_labels_change_only_the_score(run, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "KINDS", ("trained",))
    train, _, test = SMALL["caltech101"]
    write("caltech101", tmp_path, (train, None, (test + 50) % 102))
    found = []
    for folder in (prepared, tmp_path):
        settings = evaluate.Settings(source="caltech101", data_dir=str(folder))
        (row,) = transfer.run(evaluate.Context.load(run, settings))
        found.append(row["numbers"]["trained"])
    honest, poisoned = found
    for key in ("regularizer", "validation", "gradient", "head_sha256"):
        assert poisoned[key] == honest[key]
    assert honest["value"] > 0.5 and poisoned["value"] == 0.0


def test_voc_has_several_labels_and_ignores_difficult_ones(run, prepared, monkeypatch):
    monkeypatch.setattr(transfer, "KINDS", ("raw pixels",))
    settings = evaluate.Settings(source="voc2007", data_dir=str(prepared))
    context = evaluate.Context.load(run, settings)
    test = transfer._sources("voc2007", str(prepared))[2]
    labels = test.labels
    assert labels.shape == (9, 20) and (labels == 1).sum() == 9 and (labels == -1).sum() == 3
    assert set(np.flatnonzero((labels == -1).any(axis=0))) == {DIFFICULT}
    (row,) = transfer.run(context)
    number = row["numbers"]["raw pixels"]
    assert row["metric"] == "11-point mAP" and number["count"] == 9
    assert number["protocol"].startswith("raw pixels (48-d), one-vs-rest logistic regression")
    assert 0 < number["value"] <= 1


def test_sizes_are_checked(run, prepared, monkeypatch):
    monkeypatch.setitem(TRANSFER_SETS, "dtd", TRANSFER_SETS["dtd"]._replace(sizes=(12, 6, 10)))
    settings = evaluate.Settings(source="dtd", data_dir=str(prepared))
    message = r"'dtd' has 12 \+ 6 \+ 9 examples, expected 12 \+ 6 \+ 10.*data.prepare dtd"
    with pytest.raises(UserError, match=message):
        transfer.run(evaluate.Context.load(run, settings))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "no --source was given. Type --source=pets"),
        ("pets,flower", "'flower' is none of the transfer data sets: did you mean 'flowers'"),
        ("pets", "'pets' is not prepared in .* Type python -m jssl.data.prepare pets --data_dir="),
        ("fgvc_aircraft", "Type python -m jssl.data.prepare fgvc_aircraft .* --archive=FILE"),
    ],
)
def test_mistakes_name_the_set_and_the_command(run, tmp_path, source, said):
    settings = evaluate.Settings(source=source, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=said):
        evaluate.evaluate_run(run, protocols=["transfer"], settings=settings)


def test_all_includes_transfer_only_with_a_source(run):
    def lacks(source):
        context = evaluate.Context.load(run, evaluate.Settings(source=source))
        return evaluate.PROTOCOLS["transfer"].needs(context)

    assert "--source=pets" in lacks(None) and lacks("photos")
    assert not lacks("all12") and not lacks("pets,dtd")


def test_the_table_is_that_of_the_papers(monkeypatch):
    """BYOL's table 10: train + validation and test of what TFDS holds, class by class."""
    monkeypatch.undo()
    held = {  # as TFDS's catalogue gives them
        "food101": (75_750, 25_250, 101), "cifar10": (50_000, 10_000, 10),
        "cifar100": (50_000, 10_000, 100), "sun397": (19_850, 19_850, 397),
        "cars": (8_144, 8_041, 196), "voc2007": (5_011, 4_952, 20), "dtd": (3_760, 1_880, 47),
        "pets": (3_680, 3_669, 37), "caltech101": (3_059, 6_085, 102),
        "flowers": (2_040, 6_149, 102), "fgvc_aircraft": (6_667, 3_333, 100),
        "birdsnap": (47_386, 2_443, 500),
    }  # fmt: skip
    assert held.keys() == TRANSFER_SETS.keys() and len(held) == 12
    for name, (train, test, classes) in held.items():
        known = TRANSFER_SETS[name]
        assert (sum(known.sizes[:2]), known.sizes[2], known.num_classes) == (train, test, classes)
        if name in data.CATALOGUE and name != "voc2007":
            features = make_builder(name, "nowhere").info.features
            assert features["label"].num_classes == classes == data.CATALOGUE[name].num_classes
    means = {n for n, known in TRANSFER_SETS.items() if known.metric == "mean per class"}
    assert means == {"pets", "caltech101", "flowers", "fgvc_aircraft"}


def test_the_metrics_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 3, 2, 2])
    found = evaluate.mean_per_class(predicted, labels)
    assert found == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    expected = balanced_accuracy_score(labels, predicted)
    assert evaluate.mean_per_class(predicted, labels) == pytest.approx(expected)
    # A ranking of 7 with hits at 1, 3, 4 and 7: precisions 1, 2/3, 3/4, 4/7 at recalls of fourths,
    # so 3 points at 1, 5 at 3/4 (the best from the third on) and 3 at 4/7.
    x = -np.arange(8.0)[:, None]
    hits = np.array([[1], [0], [-1], [1], [1], [0], [0], [1]])  # the third does not count
    head = LinearHead(np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    found = evaluate.transfer_score(head, x, hits, metric="11-point mAP")
    assert found == pytest.approx((3 * 1 + 5 * 3 / 4 + 3 * 4 / 7) / 11)


def test_coverage_of_the_intervals():
    """By the variance of a mean of independent shares, which the bootstrap does not use."""
    labels = np.repeat([0, 1], [400, 100])
    right = np.concatenate([np.arange(400) < 300, np.arange(100) < 20])
    logits = np.eye(2)[np.where(right, labels, 1 - labels)]
    low, high = evaluate.score_interval(logits, labels, metric="mean per class")
    deviation = 0.5 * np.sqrt(0.75 * 0.25 / 400 + 0.2 * 0.8 / 100)
    expected = (0.475 - 1.96 * deviation, 0.475 + 1.96 * deviation)
    np.testing.assert_allclose((low, high), expected, atol=0.005)
    low, high = evaluate.score_interval(logits, labels, metric="top-1")
    assert (low, high) == evaluate.binomial_interval(320, 500)
    many = np.eye(2, dtype=int)[labels]
    logits = logits + np.random.default_rng(0).normal(0, 0.5, logits.shape)  # no ties
    low, high = evaluate.score_interval(logits, many, metric="11-point mAP")
    value = evaluate.mean_average_precision(logits, many, definition="voc2007")[0]
    assert low < value < high and high - low < 0.2


def test_the_random_validation_split_has_its_size_and_all_classes():
    labels = np.repeat(np.arange(37), np.r_[[100] * 20, [99] * 17])
    train, validation = evaluate.split_validation(labels, count=740, seed=3)
    assert np.array_equal(np.sort(np.r_[train, validation]), np.arange(len(labels)))
    assert len(validation) == 740
    counts = np.bincount(labels[validation])
    assert (np.abs(counts - 740 / 37) <= 1).all()
    again = evaluate.split_validation(labels, count=740, seed=3)[1]
    other = evaluate.split_validation(labels, count=740, seed=4)[1]
    assert np.array_equal(again, validation) and not np.array_equal(other, validation)
    with pytest.raises(UserError, match="3 of 10 examples of 4 classes, the smallest of 1,"):
        evaluate.split_validation(np.repeat(np.arange(4), [5, 2, 2, 1]), count=3)


def test_a_dry_run_of_every_kind_of_set(run, prepared, monkeypatch):
    """Validation drawn from train, of its own, and several labels; sizes are not compared."""
    monkeypatch.undo()  # the table has the published sizes
    monkeypatch.setattr(logistic_table, "RAW_SIDE", 4)
    monkeypatch.setattr(transfer, "KINDS", ("raw pixels",))
    monkeypatch.setitem(
        evaluate.transfer_row.__kwdefaults__, "regularizers", evaluate.REGULARIZERS[12:36:12]
    )
    names = "caltech101,dtd,voc2007"
    settings = evaluate.Settings(source=names, data_dir=str(prepared), limit=4)
    rows = evaluate.evaluate_run(run, protocols=["transfer"], settings=settings)
    record = json.loads((run / "evaluation/dry_run/transfer_limit_4.json").read_text())
    assert record["rows"] == rows and record["data"]["parts"] == dict.fromkeys(SMALL, 4)
    assert [row["numbers"]["raw pixels"]["count"] for row in rows] == [4, 4, 4]
    assert all(row["protocol"].startswith("DRY RUN on 4 pictures") for row in rows)
