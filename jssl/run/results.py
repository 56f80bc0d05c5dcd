"""Makes the results table from the records of runs."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jssl import files
from jssl.errors import UserError, WriteError
from jssl.evaluate.table import SOFTMAX_REGRESSION
from jssl.run.writers import say

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def load_records(folder: str | Path) -> list[dict[str, Any]]:
    """Reads every record (`result.json` of a run, or a copy of one) below a folder.

    Records of `jssl evaluate`, in `evaluation/` next to a `result.json`, are added to that run.

    Raises:
        UserError: there is none.
    """
    records = list(records_below(folder).values())
    if not records:
        raise UserError(
            f"No record of a finished run below {folder}: expected result.json files, which "
            "`jssl train` writes to its workdir."
        )
    return records


def records_below(folder: str | Path) -> dict[Path, dict[str, Any]]:
    """Returns the records below a folder by their files, as `load_records`; none is no error."""
    contents, damaged = {}, []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            contents[path] = json.loads(path.read_bytes())
        except ValueError:
            damaged.append(str(path))
    if damaged:
        say(f"WARNING skipped, as they are not JSON: {', '.join(damaged)}")
    contents = {k: r for k, r in contents.items() if isinstance(r, dict) and "rows" in r}
    runs = {path: record for path, record in contents.items() if "run_hash" in record}
    for path, record in contents.items():
        run = runs.get(path.parent.parent / "result.json")
        if path.parent.name == "evaluation" and "protocol" in record and run is not None:
            known = [(row["probe"], _metric(row), row["protocol"]) for row in run["rows"]]
            run["rows"] += [
                row
                for row in record["rows"]
                if (row["probe"], _metric(row), row["protocol"]) not in known
            ]
    for record in runs.values():
        for row in record["rows"]:
            row["probe"] = probe_name(row)
    return runs


def probe_name(row: dict[str, Any]) -> str:
    """Returns the name of a row's probe.

    Before schema 2, records named softmax regression on cached features 'linear', now the name of
    the papers' protocol with augmented images.

    Example:
        >>> probe_name({'probe': 'linear', 'protocol': 'softmax regression on cached features'})
        'softmax_regression'
        >>> probe_name({'probe': 'linear', 'protocol': 'linear, preset moco: 100 epochs'})
        'linear'
    """
    name, protocol = row["probe"], row["protocol"]
    if name.startswith("linear") and protocol.startswith("softmax regression on"):
        return name.replace("linear", SOFTMAX_REGRESSION, 1)
    return name


def _metric(row: dict[str, Any]) -> str:
    return row.get("metric", "top-1")


def _score(row: dict[str, Any], kind: str) -> float | None:
    """The number of a kind, in per cent; None if the row has none."""
    values = row["top1"] if "top1" in row else {k: n["value"] for k, n in row["numbers"].items()}
    return 100 * values[kind] if kind in values else None


def spread(values: Sequence[float]) -> str:
    """Formats mean and sample standard deviation of numbers in per cent.

    Example:
        >>> spread([80.0, 82.0, 84.0])
        '82.0 ± 2.0'
        >>> spread([80.0])
        '80.0'
    """
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


class Line(NamedTuple):
    """A run's numbers of one probe, over its seeds.

    Attributes:
        record: of the first seed.
        probe, metric, protocol: of the numbers.
        cells: trained, untrained and raw pixels, in per cent; '–' where one is missing.
        seeds, minutes: of all seeds.
    """

    record: dict[str, Any]
    probe: str
    metric: str
    protocol: str
    cells: tuple[str, ...]
    seeds: str
    minutes: str


def lines_of(records: Sequence[dict[str, Any]]) -> list[Line]:
    """Returns a line per run and probe; records that differ only in the seed share it."""
    groups: dict[tuple[str, ...], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for record in records:
        for row in record["rows"]:
            # The hash leaves out the teacher, which the name has.
            key = (record["run_hash"], record["name"], row["probe"], _metric(row), row["protocol"])
            groups.setdefault(key, []).append((record, row))
    lines = []
    for (*_, probe, metric, protocol), pairs in groups.items():
        record, cells = pairs[0][0], []
        for kind in ("trained", "untrained", "raw pixels"):
            scores = [s for _, row in pairs if (s := _score(row, kind)) is not None]
            cells.append(spread(scores) if len(scores) == len(pairs) else "–")
        seeds = ", ".join(str(r["seed"]) for r, _ in pairs)
        timed = all("minutes" in r for r, _ in pairs)  # features of published weights are not
        minutes = spread([r["minutes"] for r, _ in pairs]) if timed else "–"
        lines.append(Line(record, probe, metric, protocol, tuple(cells), seeds, minutes))
    return lines


def table(records: Sequence[dict[str, Any]]) -> str:
    """Formats the results as Markdown: a row per run and probe, over its seeds.

    Args:
        records: from `load_records`; those that differ only in the seed are one row.

    Returns:
        Markdown with the protocol of each number below the table.
    """
    rows = lines_of(records)
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    lines = [
        "| run | probe | trained | untrained net | raw pixels | protocol | seeds | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.record['name']}, {row.record['epochs']:g} epochs | {row.probe} {row.metric} % "
            f"| {' | '.join(row.cells)} | ({protocols.index(row.protocol) + 1}) | {row.seeds} | "
            f"{row.minutes} |"
        )
    lines.append("")
    lines += [f"({i + 1}) {protocol}" for i, protocol in enumerate(protocols)]
    lines.append("")
    lines.append("Mean ± sample standard deviation over the seeds. Minutes are wall-clock, with")
    lines.append("compilation and evaluation. " + _made_with(records))
    return "\n".join(lines)


def _made_with(records: Sequence[dict[str, Any]]) -> str:
    kinds = []
    for record in records:
        v = record["versions"]
        libraries = ", ".join(f"{k} {v['libraries'][k]}" for k in ("jax", "flax", "optax"))
        own = f"jssl of git {v['git']}"
        kinds.append(f"{v['devices']}, {v['cpus']} cores; Python {v['python']}, {libraries}, {own}")
    return "Made on: " + " / ".join(dict.fromkeys(kinds)) + "."


def report(records: str | Path, *, readme: str | Path | None = None) -> None:
    """Prints the results table, and writes it between the markers of a README.

    Raises:
        UserError: no records, or a README without the markers.
    """
    text = table(load_records(records))
    print(text)
    if readme is None:
        return
    page = Path(readme).read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise UserError(f"{readme} needs one line '{BEGIN}' and one line '{END}'.")
    before, rest = page.split(BEGIN)
    try:
        files.write_text(readme, f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    except OSError as error:
        raise WriteError(
            f"{readme} is unchanged: it cannot be written ({error.strerror})."
        ) from None
