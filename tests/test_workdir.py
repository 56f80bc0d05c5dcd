"""The small files of a workdir: damaged ones end in one sentence, or are set aside and said."""

import json

import pytest
from helpers import small_config
from runs import finished_run

from jssl.errors import UserError
from jssl.run import results, stages, workdir
from jssl.run.writers import Writers, has_row, truncate_jsonl

DAMAGED = [
    (b"", "is empty"),
    (b" \n", "is empty"),
    (b'{"method": "simc', "is cut short or changed"),
    (b"[1]", r"holds \[1\]"),
    (b"7", "holds 7"),
    (b"null", "holds null"),
    (b'{"a": "\xff\xfe"}', "is no UTF-8"),
    (b"\0\0\0\0", "is cut short or changed"),
]
IDS = [repr(content) for content, _ in DAMAGED]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(small_config("simclr"), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(("content", "said"), DAMAGED, ids=IDS)
def test_a_damaged_config_gives_a_one_sentence_error(run, content, said):
    path = run / "config.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        for use in (workdir.read_config, lambda f: workdir.open_workdir(f, small_config("simclr"))):
            with pytest.raises(UserError, match=f"config.json is damaged .it {said}"):
                use(run)
        assert path.read_bytes() == content
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("content", "said"), DAMAGED, ids=IDS)
def test_a_damaged_config_of_an_untrained_run_is_moved(tmp_path, content, said, capsys):
    (tmp_path / "config.json").write_bytes(content)
    for count in (1, 2):
        workdir.open_workdir(tmp_path, small_config("simclr"))
        assert json.loads((tmp_path / "config.json").read_text())["method"] == "simclr"
        (tmp_path / "config.json").write_bytes(content)
        assert len(list(tmp_path.glob("config.json.damaged*"))) == count
    assert "WARNING config.json is damaged, and nothing is trained yet" in capsys.readouterr().out
    assert (tmp_path / "config.json.damaged").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "said"), [(c, s) for c, s in DAMAGED if c != b"[1]"], ids=lambda v: repr(v)[:20]
)
def test_damaged_lists_of_stages_give_a_one_sentence_error(tmp_path, content, said):
    (tmp_path / "stages.json").write_bytes(content)
    with pytest.raises(UserError, match=f"stages.json is damaged .it {said}"):
        workdir.read_config(tmp_path)
    (tmp_path / "stages.json").write_text("[1]")
    with pytest.raises(UserError, match="several stages"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize(("content", "said"), DAMAGED, ids=IDS)
def test_a_damaged_record_of_a_stage_is_reported_and_recreated(tmp_path, content, said, capsys):
    (tmp_path / stages.DONE).write_bytes(content)
    assert stages._finished(stages.Stage("1_teacher", "teacher", None, None), tmp_path) is None
    assert "done.json is damaged: the stage resumes" in capsys.readouterr().out


def test_damaged_rows_of_metrics_are_moved(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "monitor_seconds": 1.0}, {"step": 9}]
    good = [json.dumps(row).encode() for row in rows]
    bad = [b"[1]", b"7", b"null", b'{"loss": 1}', b'{"step": "1"}', b"\xff\xfe", b"\0\0", b'{"st']
    path.write_bytes(b"\n".join([good[0], *bad, good[1], good[2], b'{"step": 2, "lo']))
    (line,) = truncate_jsonl(path, 2)
    assert line == f"8 lines of metrics.jsonl are damaged; moved to {path}.damaged"
    assert path.read_bytes() == b"".join(row + b"\n" for row in good[:2])
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == b"".join(b + b"\n" for b in bad)
    assert truncate_jsonl(path, 2) == []
    path.write_bytes(path.read_bytes() + b"[1]\n")
    assert has_row(path, 2, "monitor_seconds")
    assert not has_row(path, 1, "monitor_seconds")
    writers = Writers(tmp_path, step=2, tensorboard=False)
    writers.close()
    assert writers.warnings == [f"1 lines of metrics.jsonl are damaged; moved to {path}.damaged"]


@pytest.mark.parametrize(("content", "said"), DAMAGED, ids=IDS)
def test_a_damaged_versions_file_stops_nothing(run, content, said):
    (run / "versions.json").write_bytes(content)
    workdir.open_workdir(run, workdir.read_config(run))
    assert "libraries" in json.loads((run / "versions.json").read_text())


def test_records_that_are_not_json_are_skipped_and_named(tmp_path, capsys):
    record = {"rows": [], "run_hash": "a"}
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "b.json").write_text("")
    (tmp_path / "c.json").write_bytes(b"\xff")
    assert results.load_records(tmp_path) == [record]
    said = capsys.readouterr().out
    assert "b.json" in said and "c.json" in said and "a.json" not in said
