"""`jssl runs`: lists the runs below a folder, or compares two runs."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jssl import config as config_lib
from jssl.errors import UserError
from jssl.run import best, lock, not_finite, stores
from jssl.run.plain_table import plain_table

MAX_BYTES = 64 * 2**20  # of a file that is read
HIDDEN = {"checkpoints", "damaged", "evaluation", "pictures", "tensorboard", "wandb", best.FOLDER}
# Of `compare`: numbers that depend on the machine or say nothing about the network.
SKIPPED = ("step", "time", "epoch", "learning_rate", "images_per_second", "monitor_seconds")


class Run(NamedTuple):
    """What the files of a workdir say.

    Attributes:
        folder: the workdir.
        config: flat; {} if it is damaged.
        state: 'finished', 'running', 'stopped', 'not finite', 'not begun', or 'damaged'.
        step, total: updates that were made (by the newest checkpoint), and that the config says.
        metrics: the last value of each number.
        best: of `best/best.json`; {} if none is kept.
        rows: of result.json.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    step: int
    total: int
    metrics: dict[str, float]
    best: dict[str, Any]
    rows: list[dict[str, Any]]


def find_runs(folder: str | Path) -> list[Path]:
    """Returns the workdirs at and below a folder, sorted; links to folders are not followed.

    Raises:
        UserError: no such folder, or none in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"'{folder}' is no folder: expected one with runs. Type jssl runs DIR.")
    workdirs = []
    for place, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in HIDDEN and name[0] != ".")
        if "config.json" in files:
            workdirs.append(Path(place))
    if not workdirs:
        raise UserError(
            f"No run in '{folder}': expected a workdir of `jssl train`, with a config.json, there "
            "or below. Type jssl runs DIR."
        )
    return sorted(workdirs)


def read_run(folder: Path) -> Run:
    """Reads the files of a workdir; a damaged one is not an error."""
    config = config_lib.flatten(_read(folder / "config.json"))
    steps = [int(p.name) for p in stores.checkpoints(folder).glob("*") if p.name.isdecimal()]
    total, limit = (config.get(key) or 0 for key in ("run.total_steps", "max_steps"))
    total = min(total, limit) if limit else total
    step = max(steps, default=0)
    state = "finished" if steps and step >= total else "stopped" if steps else "not begun"
    if (folder / not_finite.MARKER).exists():
        state = "not finite"
    if lock.holder(folder):
        state = "running"
    if not isinstance(config.get("method"), str):
        state = "damaged"
    rows = _read(folder / "result.json").get("rows", [])
    record = _read(folder / best.FOLDER / best.RECORD)
    return Run(folder, config, state, step, total, _metrics(folder), record, rows)


def _read(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; {} if there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _metrics(folder: Path) -> dict[str, float]:
    """Returns the last value of each number in metrics.jsonl."""
    values: dict[str, float] = {}
    for row in _lines(folder / "metrics.jsonl"):
        values.update({k: float(v) for k, v in row.items() if type(v) in (int, float)})
    return values


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_BYTES))
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError:
        return


def runs_table(folder: str | Path) -> str:
    """Returns the table of the runs at and below a folder.

    Raises:
        UserError: no such folder, or no runs in it.
    """
    root, lines = Path(folder).expanduser(), []
    for run in map(read_run, find_runs(root)):
        name = str(run.folder.relative_to(root)) if run.folder != root else run.folder.name
        kept = run.best.get("held_out_top1")
        lines.append(
            (
                name,
                str(run.config.get("method", "")),
                str(run.config.get("data.name", "")),
                run.state,
                f"{run.step:,}/{run.total:,}",
                _number(run.metrics.get("loss"), "{:.4g}"),
                _number(run.metrics.get("knn_top1"), "{:.1f}", 100),
                _number(kept, "{:.1f}", 100) + (f" ({run.best.get('step')})" if kept else ""),
            )
        )
    columns = {name: "left" for name in ("run", "method", "data", "state")}
    columns |= {name: "right" for name in ("step", "loss", "kNN % [1]", "best % [2]")}
    notes = [
        "top-1 of the monitor's kNN at its last time, on the test split, or on held-out pictures "
        "where the data have none: the first lines of a run say which",
        "top-1 on held-out training examples, by which the state in best/ was chosen, and its step",
    ]
    return plain_table(columns, lines, notes=notes)


def compare(first: str | Path, second: str | Path) -> str:
    """Returns how two runs differ: their settings, last numbers and results.

    Raises:
        UserError: one that is no workdir of a run.
    """
    runs = []
    for folder in map(Path, (first, second)):
        if not (folder / "config.json").is_file():
            raise UserError(
                f"'{folder}' is not the workdir of a run: expected one with a config.json. Type "
                "jssl runs WORKDIR WORKDIR."
            )
        runs.append(read_run(folder))
    keys = sorted({*runs[0].config, *runs[1].config})
    settings = [
        (key, *(_shown(run.config, key) for run in runs))
        for key in keys
        if _shown(runs[0].config, key) != _shown(runs[1].config, key)
    ]
    numbers = [("state", *(run.state for run in runs))]
    numbers += [("step", *(f"{run.step:,}/{run.total:,}" for run in runs))]
    names = sorted({*runs[0].metrics, *runs[1].metrics} - {*SKIPPED})
    numbers += [(k, *(_number(run.metrics.get(k), "{:.4g}") for run in runs)) for k in names]
    results, notes = _results(runs)
    labels = [str(first), str(second)]
    tables = [
        plain_table({title: "left", **dict(zip(_distinct(labels), ("right",) * 2, strict=True))}, t)
        for title, t in (("settings that differ", settings), ("last numbers", numbers))
        if t
    ]
    if results:
        heading = "results, % (top-1 if no other)"
        columns = {heading: "left", **dict.fromkeys(_distinct(labels), "right")}
        tables.append(plain_table({**columns, "": "left"}, results, notes=notes))
    return "\n\n".join(tables)


def _results(runs: Sequence[Run]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the rows of two result.json side by side; a footnote names the protocol."""
    tables = [
        {
            (
                row.get("probe", ""),
                number.get("feature", ""),
                *([row["metric"]] if "metric" in row else []),
            ): number
            for row in run.rows
            for number in row.get("numbers", {}).values()
        }
        for run in runs
    ]
    lines, notes = [], []
    for key in sorted({*tables[0], *tables[1]}):
        entries = [table.get(key, {}) for table in tables]
        protocols = list(dict.fromkeys(e["protocol"] for e in entries if e.get("protocol")))
        marks = []
        for protocol in protocols:
            if protocol not in notes:
                notes.append(protocol)
            marks.append(f"[{notes.index(protocol) + 1}]")
        values = [_number(e.get("top1", e.get("value")), "{:.1f}", 100) for e in entries]
        lines.append((" ".join(key), *values, " ".join(marks)))
    return lines, notes


def _distinct(labels: Sequence[str]) -> list[str]:
    return [labels[0], labels[1] if labels[1] != labels[0] else f"{labels[1]} "]


def _shown(config: Mapping[str, Any], key: str) -> str:
    return str(config[key]) if key in config else "(absent)"


def _number(value: Any, text: str, factor: float = 1.0) -> str:
    return text.format(factor * value) if isinstance(value, int | float) else "-"
