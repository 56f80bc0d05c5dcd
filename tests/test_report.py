"""The results table: numbers worked by hand, and only between the marks."""

import json

import pytest
from helpers import ROOT

from jssl.errors import UserError
from jssl.run import results


def record(seed, knn, hash_="abc"):
    return {
        "name": "simclr on photos",
        "run_hash": hash_,
        "seed": seed,
        "epochs": 5.0,
        "minutes": 4.0 + seed,
        "rows": [
            {
                "probe": "kNN",
                "protocol": "k=20",
                "top1": {"trained": knn, "untrained": 0.7, "raw pixels": 0.375},
            }
        ],
        "versions": {
            "devices": "1 x cpu",
            "cpus": 2,
            "python": "3.11.7",
            "git": "0123456789ab",
            "libraries": {"jssl": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"},
        },
    }


def test_seeds_of_one_run_are_one_row_with_their_spread():
    text = results.table([record(0, 0.80), record(1, 0.82), record(2, 0.84)])
    rows = [line for line in text.splitlines() if line.startswith("| simclr")]
    assert rows == [
        "| simclr on photos, 5 epochs | kNN top-1 % | 82.0 ± 2.0 | 70.0 ± 0.0 | 37.5 ± 0.0 | (1) "
        "| 0, 1, 2 | 5.0 ± 1.0 |"
    ]
    assert "(1) k=20" in text
    assert "1 x cpu, 2 cores; Python 3.11.7, jax 0.10.2, flax 0.12.8, optax 0.2.8, " in text
    assert "jssl of git 0123456789ab" in text


def test_another_config_is_another_row():
    text = results.table([record(0, 0.8), record(0, 0.8, hash_="other")])
    assert sum(line.startswith("| simclr") for line in text.splitlines()) == 2
    # The teacher is in the name alone.
    text = results.table([record(0, 0.8), {**record(0, 0.8), "name": "simclr on photos, taught"}])
    assert sum(line.startswith("| simclr") for line in text.splitlines()) == 2


def test_a_record_without_minutes():
    untimed = {key: value for key, value in record(0, 0.8).items() if key != "minutes"}
    (row,) = (r for r in results.table([untimed]).splitlines() if r.startswith("| simclr"))
    assert row.endswith("| (1) | 0 | – |")


def test_only_text_between_the_markers_is_replaced(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(record(0, 0.8)))
    page = tmp_path / "README.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    results.report(tmp_path, readme=page)
    text = page.read_text()
    assert text.startswith(f"before\n{results.BEGIN}\n| run |")
    assert text.endswith(f"{results.END}\nafter\n")
    assert "old" not in text
    assert "80.0" in capsys.readouterr().out


def test_messages(tmp_path):
    with pytest.raises(UserError, match="No record of a finished run"):
        results.report(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(record(0, 0.8)))
    page = tmp_path / "README.md"
    page.write_text("no marks")
    with pytest.raises(UserError, match="needs one line"):
        results.report(tmp_path, readme=page)


def test_the_table_of_the_results_page_is_that_of_the_records():
    page = (ROOT / "docs" / "results.md").read_text()
    shown = page.split(results.BEGIN)[1].split(results.END)[0].strip()
    assert shown == results.table(results.load_records(ROOT / "configs" / "results"))
