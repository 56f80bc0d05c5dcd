"""What the files of a workdir say, for its report; a file that is damaged is named in a warning."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jssl import config as config_lib
from jssl import methods
from jssl.errors import UserError
from jssl.evaluate.table import table_lines
from jssl.run import runs

NAMED = 5  # damaged lines that a warning names


class Facts(NamedTuple):
    """The content of a workdir.

    Attributes:
        folder: the workdir.
        run: its state, config and last numbers.
        metrics: the rows of metrics.jsonl.
        result: of result.json; {} if there is none.
        lines: (probe, features, metric, %, interval, protocol) of all records.
        versions: of versions.json.
        parameters: the table of parameters; '' if there is none.
        warnings: sentences that name what is damaged.
    """

    folder: Path
    run: runs.Run
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    lines: list[tuple[str, ...]]
    versions: dict[str, Any]
    parameters: str
    warnings: list[str]


def read_facts(folder: str | Path) -> Facts:
    """Reads the files of a workdir.

    Raises:
        UserError: a folder without a config.json.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"'{folder}' is not the workdir of a run: expected one with a config.json. Type "
            "jssl report --workdir=DIR."
        )
    warnings: list[str] = []
    metrics = read_metrics(folder / "metrics.jsonl", warnings)
    result = read_json(folder / "result.json", warnings)
    records = [(folder / "result.json", result)]
    for path in sorted((folder / "evaluation").glob("*.json")):
        records.append((path, read_json(path, warnings)))
    lines: dict[tuple[str, ...], None] = {}
    for path, record in records:
        try:
            for row in record.get("rows", []):
                lines.update(dict.fromkeys(table_lines(row)))
        except (KeyError, TypeError, ValueError, AttributeError):
            warnings.append(f"{path.relative_to(folder)} has a row that is no result.")
    try:
        parameters = (folder / "parameters.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        parameters = ""
    versions = read_json(folder / "versions.json", warnings)
    run = runs.read_run(folder)
    return Facts(folder, run, metrics, result, [*lines], versions, parameters, warnings)


def read_metrics(path: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """Reads metrics.jsonl: the rows with a step, in the order of the file.

    Args:
        path: of the file.
        warnings: a sentence is added that names the lines which are no rows. An incomplete last
            line is one that is being written.
    """
    rows, damaged = [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        named = ", ".join(map(str, damaged[:NAMED]))
        s = "s" if len(damaged) > 1 else ""
        warnings.append(f"{path.name}: line{s} {named}{more} left out, as damaged.")
    return rows


def read_json(path: Path, warnings: list[str]) -> dict[str, Any]:
    """Reads an object in JSON; {} without the file, or with a sentence if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        warnings.append(f"{path.name} is damaged, and left out.")
        return {}
    return content


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Returns the steps and the values of one number, where it was logged.

    Example:
        >>> series([{'step': 1, 'loss': 2.0}, {'step': 2}, {'step': 3, 'loss': 1}], 'loss')
        ([1.0, 3.0], [2.0, 1.0])
    """
    pairs = [(row["step"], row[key]) for row in rows if type(row.get(key)) in (int, float)]
    return [float(step) for step, _ in pairs], [float(value) for _, value in pairs]


def untrained_knn(facts: Facts) -> float | None:
    """Returns kNN's top-1 of the untrained network, in [0, 1]; None if it was not measured."""
    for row in facts.result.get("rows", []):
        if isinstance(row, dict) and row.get("probe") == "kNN":
            value = (row.get("top1") or {}).get("untrained")
            return float(value) if isinstance(value, int | float) else None
    return None


def changed_settings(config: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], str]:
    """Returns the settings of a run that differ from its preset.

    Args:
        config: of the run, flat.

    Returns:
        (key, value of the preset, value of the run) of each, and why there are none; '' if that is
        known.
    """
    method, preset = config.get("method", ""), config.get("preset", "")
    try:
        methods.get(method)
        base = config_lib.flatten(json.loads(config_lib.base(method, preset=preset).to_json()))
    except (UserError, TypeError) as error:
        return [], f"The preset of this run is not known to this version of jssl: {error}"
    rows = []
    for key in sorted(config):
        old = base.get(key, "(absent)")
        if old != config[key] and not key.startswith("run."):
            rows.append((key, str(old), str(config[key])))
    return rows, ""


def seconds_of(facts: Facts) -> tuple[float | None, str]:
    """Returns how long a run took, in seconds, and of what that time is."""
    minutes = facts.result.get("minutes")
    if isinstance(minutes, int | float):
        return 60.0 * float(minutes), "the last start, with compilation and evaluation"
    times = [row["time"] for row in facts.metrics if type(row.get("time")) in (int, float)]
    if len(times) > 1:
        return float(times[-1] - times[0]), "from the first logged number to the last"
    return None, ""
