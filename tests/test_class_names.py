"""Numbers of classes are compared only where their names are the same."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import small_config
from runs import finished_run

from jssl import data, evaluate
from jssl.data import pseudo_labels, semi_supervised
from jssl.errors import UserError
from jssl.run import build, workdir
from jssl.run.judge import train_and_judge


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """STL-10's layout: train/ without labels, labelled/{cat,dog,owl}/, val/{cat,dog,owl}/."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    counts = {"train": 24, **{f"labelled/{c}": 6 for c in ("cat", "dog", "owl")},
              **{f"val/{c}": 4 for c in ("cat", "dog", "owl")}}  # fmt: skip
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (32, 32, 3))
            if "/" in folder:  # a colour of its own
                pixels[..., ("cat", "dog", "owl").index(folder[-3:])] += 190
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{i}.png")
    return root


def folder_config(method, root, **values):
    config = small_config(method, launch="jit", max_steps=2, batch_size=8)
    config.data.name, config.data.data_dir = "folder", str(root)
    config.data.update(values)
    config.final.linear_epochs = 2
    config.monitor.knn_k = 5
    if "num_classes" in config[method]:
        config[method].num_classes = 0
    return config


@pytest.fixture(scope="module")
def unlabelled_run(pictures, tmp_path_factory):
    """A short run on STL-10's layout, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jssl.run.writers.Progress.say", lambda self, line: said.append(line))
        train_and_judge(folder_config("simclr", pictures, probe_split="labelled"), folder)
    return folder, said


def test_unlabelled_training_is_evaluated_on_the_labelled_splits(unlabelled_run):
    folder, said = unlabelled_run
    rows = json.loads((folder / "result.json").read_text())["rows"]
    assert [row["probe"] for row in rows] == ["kNN", "softmax_regression"]
    knn = rows[0]["numbers"]
    assert knn["raw pixels"]["count"] == 12
    assert knn["raw pixels"]["top1"] == 1.0  # the classes differ by their colours
    assert "18 train" in knn["trained"]["protocol"]
    assert workdir.read_classes(folder) == ("cat", "dog", "owl")
    lines = [line for line in said if line.startswith("data: folder 'pictures' read as splits: ")]
    assert len(lines) == 1
    assert "train 24 pictures without labels" in lines[0] and "3 classes: cat, dog, owl" in lines[0]
    metrics = (folder / "metrics.jsonl").read_text()
    assert "knn_top1" in metrics


def test_embed_writes_the_names(unlabelled_run, tmp_path, capsys):
    folder, _ = unlabelled_run
    evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="backbone")
    assert "all data: folder 'pictures' read as splits: " in capsys.readouterr().out
    saved = np.load(tmp_path / "x.npz")
    assert saved["class_names"].tolist() == ["cat", "dog", "owl"]
    assert saved["class_names"].dtype.kind == "U"
    source = data.synthetic_source("test", size=8, num_examples=16)
    evaluate.save_npz(
        tmp_path / "y.npz", np.zeros((4, 2)), np.zeros(4), np.arange(4), source=source
    )
    assert np.load(tmp_path / "y.npz")["class_names"].shape == (0,)


def test_a_run_resumes_with_the_same_classes_only(unlabelled_run, pictures, tmp_path):
    folder, _ = unlabelled_run
    config = folder_config("simclr", pictures, probe_split="labelled")
    parts = build.build(config)
    assert parts.class_names == ("cat", "dog", "owl")
    assert workdir.open_workdir(folder, config, classes=parts.class_names)
    with pytest.raises(UserError, match="class 0 is 'ant' in one and 'cat' in the other"):
        workdir.open_workdir(folder, config, classes=("ant", "cat", "dog"))
    new = workdir.open_workdir(tmp_path / "new", config, classes=("café",))
    assert workdir.read_classes(new) == ("café",)
    for text in ("", "[1]", '"cat"', '["cat'):
        (new / workdir.CLASSES).write_text(text)
        with pytest.raises(UserError, match=r"classes.json' (cannot be read|holds no list)"):
            workdir.read_classes(new)


@pytest.fixture
def classifier(pictures, tmp_path):
    """A run of `supervised` on three classes of a folder, and another folder of other classes."""
    config = folder_config("supervised", pictures, train_split="labelled")
    config.supervised.num_classes = 3
    names = build.build(config).class_names
    folder = finished_run(config, tmp_path / "run")
    workdir.open_workdir(folder, config, classes=names)
    other = tmp_path / "other"
    for split in ("labelled", "val"):
        for name in ("ant", "cat", "dog"):
            where = pictures / split / {"ant": "owl"}.get(name, name)
            (other / split).mkdir(parents=True, exist_ok=True)
            (other / split / name).symlink_to(where)
    return folder, other


def test_a_classifier_is_not_evaluated_on_other_classes(classifier, tmp_path, capsys):
    folder, other = classifier
    words = "class 0 is 'ant' in one and 'cat' in the other"
    settings = evaluate.Settings(data_dir=str(other))
    with pytest.raises(UserError, match=f"own classifier and data set.*{words}"):
        evaluate.evaluate_run(folder, protocols=["robustness"], settings=settings)
    context = evaluate.Context.load(folder, settings)
    assert words in evaluate.run.PROTOCOLS["robustness"].needs(context)
    with pytest.raises(UserError, match=f"The logits of the run.*{words}"):
        evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="logits", data_dir=str(other))
    # Without names it cannot be told: that is said.
    evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="logits", source="synthetic")
    assert "The classes of synthetic have no names" in capsys.readouterr().out
    # Features without a classifier, and the run's own data, are as before.
    evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="logits")
    evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="backbone", data_dir=str(other))
    assert np.load(tmp_path / "x.npz")["class_names"].tolist() == ["ant", "cat", "dog"]
    (folder / workdir.CLASSES).unlink()  # as of an older version: its data still have the names
    with pytest.raises(UserError, match=f"The logits of the run.*{words}"):
        evaluate.embed_run(folder, output=tmp_path / "x.npz", feature="logits", data_dir=str(other))


def named(name, classes, count=6):
    return data.ArraySource(
        name,
        np.zeros((count, 32, 32, 3), np.uint8),
        np.arange(count) % 2,
        num_classes=2,
        class_names=classes,
    )


def test_splits_of_different_classes_are_not_compared(monkeypatch, unlabelled_run):
    sources = {"train": named("a", ("cat", "dog")), "probe": named("a", ("cat", "dog")),
               "test": named("b", ("dog", "cat"))}  # fmt: skip
    monkeypatch.setattr(data, "make_source", lambda config, split: sources[split])
    config = small_config("simclr", batch_size=4)
    with pytest.raises(UserError, match="The test split of 'b' and its training data have other"):
        build.build(config)
    context = evaluate.Context.load(unlabelled_run[0], evaluate.Settings())
    with pytest.raises(UserError, match="class 0 is 'dog' in one and 'cat' in the other"):
        _ = context.sources
    sources["test"] = named("b", None)  # not known: as before
    assert build.build(config).class_names == ("cat", "dog")


def test_a_teacher_of_other_classes_is_refused(classifier, monkeypatch):
    folder, other = classifier
    config = folder_config("supervised", other, train_split="labelled")
    section = SimpleNamespace(get=lambda key, default: str(folder) if key == "teacher" else default)
    source = data.make_source(config.data, "train")
    with pytest.raises(UserError, match="The teacher in .* have other classes"):
        build._check_classes(section, source, source, None)
    labels = pseudo_labels.PseudoLabels(
        np.arange(2), np.full((2, 2), 0.5, np.float32), np.ones(2, np.int32),
        {"classes": json.dumps(["cat", "dog"])},
    )  # fmt: skip
    halves = semi_supervised.Halves(
        data.Part(named("a", ("dog", "cat")), np.arange(3)),
        named("b", None, 7),
        np.arange(7),
    )
    with pytest.raises(UserError, match="The pseudo-labels and data set 'a' have other classes"):
        semi_supervised.with_labels(halves, labels, num_classes=2)


def test_names_of_known_data_sets():
    assert data.class_names(data.photos_source("test"))[0] == "astronaut"
    assert data.class_names(data.digits_source("test")) == tuple("0123456789")
    assert data.class_names(data.synthetic_source("test", size=8, num_examples=8)) is None
    part = data.Rows(data.photos_source("test"), np.arange(3))
    assert data.class_names(part) == data.class_names(data.photos_source("test"))
    assert data.difference(("cafe\u0301",), ("caf\u00e9",)) == ""


def test_rows_of_different_rows_have_different_fingerprints():
    source = data.synthetic_source("test", size=8, num_examples=64)
    prints = [
        data.Rows(source, rows).fingerprint() for rows in ([0, 1, 2], [0, 1, 3], [2, 1, 0], [0, 1])
    ]
    assert len(set(prints)) == 4
    assert data.Rows(source, [0, 1]).fingerprint() == prints[3]
