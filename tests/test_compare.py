"""The page that compares runs: numbers over seeds, settings, curves; and records that are none."""

import html
import json
import math

import pytest
from test_report_page import Page

from jssl import config as config_lib
from jssl import main
from jssl.errors import UserError
from jssl.run import results

PROTOCOL = "k=20, toy"


def record_of(top1, *, seed=0, run_hash="aaaa", name="simclr on photos", probe="kNN"):
    numbers = {
        kind: {"top1": value, "correct": 1, "count": 2, "ci95": [0.1, 0.9], "protocol": PROTOCOL,
               "feature": f"{kind} backbone", "dim": 4}
        for kind, value in (("trained", top1), ("untrained", 0.25))
    }  # fmt: skip
    row = {"probe": probe, "protocol": PROTOCOL, "numbers": numbers,
           "top1": {kind: number["top1"] for kind, number in numbers.items()}}  # fmt: skip
    libraries = {"jax": "1", "flax": "2", "optax": "3"}
    versions = {"git": "x", "python": "3", "devices": "cpu", "cpus": 2, "libraries": libraries}
    return {"run_hash": run_hash, "name": name, "seed": seed, "epochs": 2.0, "minutes": 1.0,
            "rows": [row], "versions": versions}  # fmt: skip


def workdir_of(folder, record, *, points=40, **settings):
    """Writes what a run leaves that the page reads."""
    folder.mkdir(parents=True)
    config = config_lib.base("simclr", preset="cifar")
    config.run.steps_per_epoch = 20
    flat = {**config_lib.flatten(config), **settings}
    (folder / "config.json").write_text(json.dumps(flat, default=list))
    rows = [{"step": s, "time": s, "loss": 5 * math.exp(-s / 20) + 0.1 * (s % 3)}
            for s in range(1, points + 1)]  # fmt: skip
    rows += [{"step": s, "knn_top1": 0.3 + s / 100} for s in (0, 20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if record is not None:
        (folder / "result.json").write_text(json.dumps(record))
    return folder


def written(records, tmp_path):
    page = tmp_path / "page.html"
    main.main(["report", f"--records={records}", f"--output={page}"])
    text = page.read_text()
    assert len(text) < 5_000_000 and "default-src 'none'" in text
    checked = Page(text)
    assert all(source.startswith("data:") for source in checked.loaded)
    return html.unescape(text)


@pytest.fixture
def three(tmp_path):
    """Two seeds of one run and another run, with one setting changed."""
    for seed, top1 in ((0, 0.8), (1, 0.84)):
        workdir_of(tmp_path / f"runs/seed{seed}", record_of(top1, seed=seed), seed=seed)
    other = record_of(0.5, run_hash="bbbb", name="simclr on <b>photos")
    workdir_of(tmp_path / "runs/other", other, **{"optim.lr": 0.125})
    return tmp_path / "runs"


def test_runs_are_compared_over_their_seeds(three, tmp_path, capsys):
    text = written(three, tmp_path)
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert "82.0 ± 2.8" in text and "50.0" in text and "<h1>2 runs</h1>" in text
    assert text.count(f"<li>{PROTOCOL}</li>") == 1 and "0, 1" in text
    row = text[text.index("<td><code>optim.lr") :]
    assert "0.125" in row[: row.index("</tr>")] and text.count("<tr><td><code>") == 1
    assert text.count("data:image/svg+xml") == 1 and "simclr on <b>photos" in text


def test_the_table_of_a_folder_is_as_before(three, capsys):
    main.main(["report", f"--records={three}"])
    assert results.table(results.load_records(three)) in capsys.readouterr().out


def test_runs_without_a_record_have_curves_and_no_numbers(tmp_path):
    workdir_of(tmp_path / "a", None)
    workdir_of(tmp_path / "b", None, epochs=3.0)
    text = written(f"{tmp_path}/a,{tmp_path}/b", tmp_path)
    assert "None of these runs has a result.json" in text
    assert "simclr on photos, not finished, 3 epochs" in text.replace("fake", "photos")
    assert "data:image/svg+xml" in text and "<code>epochs</code>" in text


def test_records_alone_have_numbers_and_no_curves(tmp_path):
    for name, record in (("a", record_of(0.5)), ("b", record_of(0.75, run_hash="b"))):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    text = written(f"{tmp_path}/a.json,{tmp_path}/b.json,{tmp_path}/a.json", tmp_path)
    assert "simclr on photos (a)" in text and "simclr on photos (b)" in text
    assert "2 of 2 runs are records without a workdir" in text and "svg" not in text


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "No such file or folder"),
        ("{", "is no record: it is not JSON"),
        ("[]", "is no record of a run: it has no rows, run_hash"),
        ('{"rows": [], "run_hash": "a", "name": "b", "epochs": 1}', "it has no seed. Expected"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        written(path, tmp_path)
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_runs_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"No run in '{tmp_path}/empty'"):
        written(tmp_path / "empty", tmp_path)
    with pytest.raises(UserError, match="--records is empty"):
        written(",", tmp_path)


def test_two_records_of_one_seed_are_refused(three, tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_bytes((three / "seed1" / "result.json").read_bytes())
    with pytest.raises(UserError, match="Two records of one run with seed 1: .*copy.json"):
        written(f"{three},{copy}", tmp_path)


@pytest.mark.parametrize("flags", [["--workdir=x", "--output=a.html"],
                                   ["--records=x", "--output=a.html", "--readme=b"],
                                   ["--records=x", "--output=a.txt"]])  # fmt: skip
def test_flags_that_exclude_each_other(flags):
    with pytest.raises(UserError, match="type one of the two|must end with .html"):
        main.main(["report", *flags])


@pytest.mark.parametrize("records", ["{three}/seed0/result.json", "{three}/seed0,{three}/seed1"])
def test_the_table_of_files_is_not_that_of_a_folder(three, records):
    with pytest.raises(UserError, match="add --output=runs.html"):
        main.main(["report", f"--records={records.format(three=three)}"])
