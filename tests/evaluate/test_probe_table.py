"""The table of a run: each number with its interval and its protocol, and nothing else."""

import json
import re

import numpy as np
import pytest
from scipy.stats import norm

from jssl.errors import UserError
from jssl.evaluate import (
    binomial_interval,
    fit_linear,
    format_table,
    knn_accuracy,
    knn_row,
    linear_accuracy,
    linear_row,
    probe_rows,
)


def sets(K=6):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, 10))
    y, test_y = np.arange(120) % K, np.arange(60) % K
    noise = {"trained": 0.3, "untrained": 1.5, "raw pixels": 4.0}
    return {
        kind: (
            centres[y] + spread * rng.normal(size=(120, 10)),
            y,
            centres[test_y] + spread * rng.normal(size=(60, 10)),
            test_y,
        )
        for kind, spread in noise.items()
    }


@pytest.fixture(scope="module")
def rows():
    return probe_rows(sets(), num_classes=6, name="mine", k=9, linear_epochs=20, seed=4)


def test_numbers_are_those_of_the_probes_on_each_set(rows):
    assert [row["probe"] for row in rows] == ["kNN", "softmax_regression"]
    for kind, (x, y, test_x, test_y) in sets().items():
        knn = knn_accuracy(x, y, test_x, test_y, num_classes=6, k=9)
        head = fit_linear(x, y, num_classes=6, epochs=20, seed=4).head
        for row, expected in zip(rows, (knn, linear_accuracy(head, test_x, test_y)), strict=True):
            assert row["top1"][kind] == row["numbers"][kind]["top1"] == expected["top1"]
            assert row["numbers"][kind]["top5"] == expected["top5"]
            assert row["numbers"][kind]["correct"] == expected["correct"]
            assert row["numbers"][kind]["count"] == 60
    for row in rows:
        assert list(row["top1"]) == ["trained", "untrained", "raw pixels"]
        assert row["top1"]["trained"] > row["top1"]["untrained"] > row["top1"]["raw pixels"]


def test_each_number_names_its_protocol(rows):
    common = ("120 train", "60 test examples of mine", "(10-d)")
    words = {
        "kNN": ("k=9", "cosine", "weights exp(s/0.1)", "bank 120 train"),
        "softmax_regression": (
            "cached features",
            "standardised by train statistics",
            "no augmentation",
            "zero init",
            "SGD Nesterov 0.9",
            "lr 1/L = ",
            "weight decay 0",
            "20 epochs of batch 120",
            "last epoch",
        ),
    }
    names = {
        "trained": "trained backbone",
        "untrained": "untrained backbone",
        "raw pixels": "raw pixels",
    }
    for row in rows:
        for kind, number in row["numbers"].items():
            for word in (*common, *words[row["probe"]], names[kind]):
                assert word in number["protocol"]
        assert row["protocol"].endswith("60 test examples of mine")
    fit = fit_linear(*sets()["trained"][:2], num_classes=6, epochs=20, seed=4)
    rate = f"lr 1/L = {fit.learning_rate:.3g} cosine"
    assert rate in rows[1]["numbers"]["trained"]["protocol"]


def test_the_protocol_follows_the_settings():
    row = knn_row(
        *sets()["trained"], num_classes=6, name="mine", feature="projection", k=3, temperature=0.07
    )
    protocol = row["numbers"]["trained"]["protocol"]
    assert protocol.startswith("trained projection (10-d), k=3, cosine, weights exp(s/0.07)")
    assert row["protocol"] in protocol


def test_rows_are_json(rows):
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (8, 10), (961, 1200), (1200, 1200)])
def test_the_interval_is_wilsons_formula(correct, count):
    z, p = norm.ppf(0.975), correct / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    assert binomial_interval(correct, count) == pytest.approx((middle - half, middle + half))


def test_intervals_lie_around_their_numbers(rows):
    for row in rows:
        for number in row["numbers"].values():
            low, high = number["ci95"]
            assert 0 <= low <= number["top1"] <= high <= 1
            assert (low, high) == binomial_interval(number["correct"], 60)


def test_the_table_has_a_line_per_number_with_its_protocol(rows):
    table, _, notes = format_table(rows).partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == 1 + 6 and max(map(len, (*lines, *notes.splitlines()))) <= 100
    footnotes = [" ".join(note.split()) for note in re.split(r"(?m)^(?=\[\d+\] )", notes) if note]
    columns = [lines[0].index(word) for word in ("features", "95 % interval")]
    numbers = [number for row in rows for number in row["numbers"].values()]
    for line, number in zip(lines[1:], numbers, strict=True):
        mark = line.split()[-1]
        (note,) = [text for text in footnotes if text.startswith(f"{mark} ")]
        known = f"{number['feature']} ({number['dim']}-d)"
        assert f"{known}, {note.removeprefix(f'{mark} ')}" == number["protocol"]
        assert line[columns[0] :].startswith(known)
        assert f" {100 * number['top1']:.1f} " in line[: columns[1]]
        low, high = number["ci95"]
        assert f"{100 * low:.1f} - {100 * high:.1f}" in line
    assert [line.split()[0] for line in lines[1:]] == ["kNN"] * 3 + ["softmax_regression"] * 3


def test_the_linear_row_shows_the_best_epoch_and_the_last():
    record = {
        "top1": 0.7,
        "top5": 0.9,
        "correct": 70,
        "count": 100,
        "best_top1": 0.72,
        "best_epoch": 3.0,
        "feature": "backbone",
        "dim": 16,
        "protocol": "linear, preset moco: 5 epochs, last epoch",
        "history": [],
    }
    row = linear_row(record)
    assert row["top1"] == {"trained": 0.7}
    text = " ".join(format_table([row]).split())
    assert "70.0" in text
    assert text.endswith(
        "linear, preset moco: 5 epochs, last epoch (best: 72.0 after epoch 3, not chosen)"
    )
    json.dumps(row)


def test_a_bank_smaller_than_k_is_refused():
    with pytest.raises(UserError, match="kNN with k=200 needs a bank of at least 200"):
        probe_rows(sets(), num_classes=6, name="mine", k=200)
