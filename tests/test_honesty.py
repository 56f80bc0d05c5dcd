"""What every protocol owes: a whole record, each example once, and no choice by the test split."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import ROOT, small_config, stored_run

from jssl import data, evaluate
from jssl.augment import corruptions
from jssl.evaluate.probes import logistic_table, softmax_regression
from jssl.evaluate.protocols import knn, logistic
from jssl.evaluate.protocols import mlp as mlp_protocol
from jssl.evaluate.protocols import softmax_regression as softmax_protocol
from jssl.evaluate.run import PROTOCOLS, check_record

SCORES = (
    "fingerprint",
    "top1",
    "top5",
    "correct",
    "ci95",
    "value",
    "errors",
    "best_top1",
    "best_epoch",
)
CLASSIFIERS = ("softmax_regression", "mlp", "linear", "logistic", "layers")  # these fit one
HERE = ("knn", "classifier", *CLASSIFIERS, "robustness")  # what one supervised run allows
SETTINGS = evaluate.Settings(source="synthetic", epochs=1, preset="simclr_cifar", seed=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = small_config("supervised", launch="jit", max_steps=1)
    config.supervised.num_classes = 10
    config.data.update({"name": "synthetic", "num_examples": 64})
    stored_run(config, folder, data.photos_source("test").images[:64])
    return folder


@pytest.fixture(scope="module")
def few():
    """The trained net alone, two regularisers and one corruption: seconds and not minutes."""
    with pytest.MonkeyPatch.context() as patch:
        row = logistic_table.logistic_row
        short = {**row.__kwdefaults__, "regularizers": (1e-2, 1.0)}
        patch.setattr(row, "__kwdefaults__", short)
        patch.setattr(logistic, "KINDS", ("trained",))
        patch.setattr(softmax_protocol, "KINDS", ("trained",))
        patch.setattr(mlp_protocol, "KINDS", ("trained",))
        patch.setattr(knn.run, "__defaults__", (("trained",),))
        patch.setattr(knn, "baselines", lambda context: [])
        brightness = corruptions.CONSTANTS["cifar"]["brightness"]
        patch.setattr(corruptions, "CONSTANTS", {"cifar": {"brightness": brightness}})
        yield


@pytest.fixture(scope="module")
def halves():
    whole = data.synthetic_source("train", size=32, num_examples=1024)
    test = data.synthetic_source("test", size=32, num_examples=1024)
    rows = np.arange(0, 1024, 4)
    train = data.ArraySource("synthetic", whole.images[rows], whole.labels[rows], num_classes=10)
    labels = np.where(np.arange(len(test)) < 20, test.labels, 0)  # most are of one class
    poisoned = data.ArraySource("synthetic", test.images, labels, num_classes=10)
    return {"clean": (train, test), "poisoned": (train, poisoned)}


@pytest.fixture(scope="module")
def judged(run, few, halves):
    """(name, 'clean' | 'poisoned') -> (record, the kernels of all classifiers judged)."""
    found, kept, load = {}, softmax_regression.count_right, evaluate.Context.load
    loaded = load(run, SETTINGS)._loaded
    with pytest.MonkeyPatch.context() as patch:
        for kind, sources in halves.items():
            context = load(run, SETTINGS)  # a new one: the other half's features are cached
            context.__dict__.update({"_loaded": loaded, "sources": sources})
            patch.setattr(evaluate.Context, "load", lambda *_, context=context: context)
            for name in HERE if kind == "clean" else CLASSIFIERS:
                heads = []

                def spy(head, x, y, heads=heads):
                    heads.append(np.asarray(head.kernel).tobytes())
                    return kept(head, x, y)

                patch.setattr(softmax_regression, "count_right", spy)
                patch.setattr(evaluate.probes.linear_sgd, "count_right", spy)
                evaluate.evaluate_run(run, protocols=[name], settings=SETTINGS)
                path = run / "evaluation" / f"{name}.json"
                found[name, kind] = json.loads(path.read_text()), heads
    return found


def without_scores(value):
    if isinstance(value, dict):
        return {k: without_scores(v) for k, v in value.items() if k not in SCORES}
    return [without_scores(v) for v in value] if isinstance(value, list) else value


def numbers(record):
    return [number for row in record["rows"] for number in row["numbers"].values()]


@pytest.mark.parametrize("name", HERE)
def test_a_record_describes_its_data(run, judged, halves, name):
    record, _ = judged[name, "clean"]
    train, test = halves["clean"]
    context = evaluate.Context.load(run, SETTINGS)
    assert (record["protocol"], record["seed"]) == (name, SETTINGS.seed)
    assert record["data"] == {
        "name": "synthetic", "split": "test", "examples": len(test),
        "fingerprint": test.fingerprint(), "train_examples": len(train),
    }  # fmt: skip
    assert record["checkpoint"]["sha256"] == evaluate.backbone_hash(context.state)
    assert record["settings"]["source"] == "synthetic" and record["versions"]["libraries"]
    for number in numbers(record):
        low, high = number["ci95"]
        value = number.get("value", number.get("top1"))
        assert 0 <= low <= value <= high <= 1 and high - low < 0.3
        assert number["count"] == len(test)
        assert f"{len(test)} test examples of synthetic" in number["protocol"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_poisoned_test_labels_change_only_the_scores(judged, name):
    (clean, heads), (poisoned, other) = judged[name, "clean"], judged[name, "poisoned"]
    assert clean["data"]["fingerprint"] != poisoned["data"]["fingerprint"]
    assert without_scores(clean) == without_scores(poisoned)
    assert heads == other and len(heads) > 0


def test_the_poisoned_labels_are_those_that_are_scored(judged):
    """The score of one classifier may stay by chance, not those of most."""
    scores = {
        kind: {n: [x.get("top1", x.get("value")) for x in numbers(judged[n, kind][0])]
               for n in CLASSIFIERS}
        for kind in ("clean", "poisoned")
    }  # fmt: skip
    changed = [n for n in CLASSIFIERS if scores["clean"][n] != scores["poisoned"][n]]
    assert len(changed) >= len(CLASSIFIERS) / 2


def test_each_protocol_that_selects_is_poisoned_somewhere():
    assert (
        {name for name in HERE if PROTOCOLS[name].selects}
        == {"logistic", "layers"}
        < set(CLASSIFIERS)
    )
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    for name, protocol in PROTOCOLS.items():
        if name not in HERE:
            tested = [text for text in texts if f'"{name}"' in text]
            assert tested, f"no test judges a run by '{name}'"
            if protocol.selects:
                assert any("poison" in text for text in tested), f"'{name}' is not poisoned"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ci95": None}, "row kNN: no ci95"),
        ({"protocol": ""}, "row kNN: no protocol"),
        ({"top1": None}, ""),
        ({"count": 11}, "a number of 11 examples, but the data say 4 or 10"),
    ],
)
def test_an_incomplete_record_is_not_written(change, said):
    number = {"top1": 0.5, "ci95": [0.2, 0.8], "count": 10, "protocol": "words"}
    record = {"protocol": "x", "data": {"name": "a", "parts": {"one": 10, "two": [4]}}}
    changed = {**number, **change}
    if change.get("top1", 0) is None:
        changed.pop("top1")
        said = "row kNN: no value"
    record["rows"] = [{"probe": "kNN", "numbers": {"trained": number, "untrained": changed}}]
    with pytest.raises(ValueError, match=said):
        check_record(record)


def test_a_protocol_cannot_write_a_number_without_its_interval(run, monkeypatch):
    bare = [{"probe": "kNN", "protocol": "", "numbers": {"trained": {"top1": 0.5, "count": 7}}}]
    broken = dataclasses.replace(PROTOCOLS["knn"], run=lambda context: bare)
    monkeypatch.setitem(PROTOCOLS, "knn", broken)
    path = run / "evaluation" / "knn.json"
    path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="Protocol 'knn', row kNN: no ci95, protocol"):
        evaluate.evaluate_run(run, protocols=["knn"], settings=SETTINGS)
    assert not path.exists()
