"""One page that compares runs: their numbers, curves and settings; `jssl report --records=A,B`."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl import config as config_lib
from jssl import files
from jssl.errors import UserError, WriteError
from jssl.report.curves import SMOOTHED, smoothed
from jssl.report.document import MOST_BYTES, render, uri_of
from jssl.report.facts import read_json, read_metrics, series
from jssl.run import results, workdir
from jssl.run.runs import find_runs
from jssl.third_party import unchanged

TEMPLATE = "compare.html.jinja"
PLOTS = (("kNN accuracy", "knn_top1", "top-1, %", 100), ("Loss", "loss", "loss", 1),
         ("Accuracy on held-out examples", "held_out_top1", "top-1, %", 100))  # fmt: skip
POINTS = (600, 100, 20)  # of a line: fewer while the page is too large
COLOURS = 10
NAMED = 3  # places of a run that the page names
NO_WEIGHTS = ("seed", "log.", "checkpoint.", "report.", "run.")  # settings that are not compared


class Entry(NamedTuple):
    """One training of a run.

    Attributes:
        place: its record; its workdir, if it has none yet.
        record: as `jssl.run.judge` writes it, `rows` empty if there is none yet.
        config: flat; {} if there is no workdir beside the record.
        metrics: the rows of metrics.jsonl.
    """

    place: Path
    record: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def run(self) -> tuple[str, str]:
        """What trainings that differ in the seed only have in common."""
        return str(self.record["run_hash"]), str(self.record["name"])


def compare_runs(records: str, output: str | Path) -> Path:
    """Writes the page that compares runs.

    Args:
        records: files and folders, separated by commas: records, workdirs, or folders with such.
        output: the page.

    Returns:
        Its path.

    Raises:
        UserError: no such path, no record there, a file that is no record, or two trainings of one
            run with the same seed.
    """
    warnings: list[str] = []
    entries = read_entries([part for part in records.split(",") if part.strip()], warnings)
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.run, []).append(entry)
    labels = _labels(groups)
    for points in POINTS:
        page = render(_content(groups, labels, warnings, points), TEMPLATE)
        if len(page.encode()) <= MOST_BYTES:
            break
    else:
        raise UserError(
            f"The page of {len(entries)} records would be above 5 MB. Type fewer of them."
        )
    try:
        files.write_text(output, page)
    except OSError as error:
        raise WriteError(f"{output} cannot be written ({error.strerror}).") from None
    return Path(output)


def read_entries(paths: Sequence[str], warnings: list[str]) -> list[Entry]:
    """Reads the trainings in files and folders, each once.

    Args:
        paths: of records, workdirs, or folders with such.
        warnings: sentences are added that name what is damaged.

    Raises:
        UserError: as `compare_runs`.
    """
    entries: dict[Path, Entry] = {}
    for text in paths:
        path = Path(text.strip()).expanduser()
        if not path.exists():
            raise UserError(
                f"No such file or folder: '{path}'. Expected the workdir of a run, a result.json, "
                "or a folder with such. Type --records=FILE_OR_DIR,FILE_OR_DIR."
            )
        read = _folder(path, warnings) if path.is_dir() else [_file(path, warnings)]
        if not read:
            raise UserError(
                f"No run in '{path}': expected a workdir with a config.json and a metrics.jsonl, "
                "or result.json files, there or below. Type another --records=FILE_OR_DIR."
            )
        for entry in read:
            entries.setdefault(entry.place.resolve(), entry)
    if not entries:
        raise UserError("--records is empty. Type --records=FILE_OR_DIR,FILE_OR_DIR.")
    seen: dict[tuple[Any, ...], Path] = {}
    for entry in entries.values():
        key = (*entry.run, entry.record["seed"])
        if key in seen:
            raise UserError(
                f"Two records of one run with seed {entry.record['seed']}: '{seen[key]}' and "
                f"'{entry.place}' (hash {entry.run[0]}). A mean over seeds would count it twice: "
                "leave one of them out of --records."
            )
        seen[key] = entry.place
    return list(entries.values())


def _file(path: Path, warnings: list[str]) -> Entry:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no record: it is not JSON ({error}).") from None
    kinds: dict[str, Any] = {
        "rows": list,
        "run_hash": str,
        "name": str,
        "epochs": (int, float),
        "seed": int,
    }
    missing = [
        key for key, kind in kinds.items()
        if not isinstance(record, dict) or not isinstance(record.get(key), kind)
    ]  # fmt: skip
    if missing:
        raise UserError(
            f"'{path}' is no record of a run: it has no {', '.join(missing)}. Expected a "
            "result.json, which `jssl train` writes to its workdir, or a copy of one."
        )
    for row in record["rows"]:
        row["probe"] = results.probe_name(row)
    return _entry(path, record, path.parent, warnings)


def _folder(folder: Path, warnings: list[str]) -> list[Entry]:
    """Returns what is in a folder: its records, and its runs that have none yet."""
    records = results.records_below(folder)
    entries = [_entry(path, record, path.parent, warnings) for path, record in records.items()]
    try:
        places = find_runs(folder)
    except UserError:
        return entries
    for place in places:
        if place / "result.json" in records or not (place / "metrics.jsonl").is_file():
            continue
        config = config_lib.flatten(read_json(place / "config.json", warnings))
        kept = {k: v for k, v in config.items() if k != "seed" and not k.startswith(workdir.FREE)}
        record = {
            "run_hash": f"config {config_lib.config_hash(kept)}", "rows": [],
            "name": f"{config.get('method', '?')} on {config.get('data.name', '?')}, not finished",
            "seed": config.get("seed", 0), "epochs": config.get("epochs", 0),
        }  # fmt: skip
        entries.append(_entry(place, record, place, warnings))
    return entries


def _entry(place: Path, record: dict[str, Any], folder: Path, warnings: list[str]) -> Entry:
    whole = folder if (folder / "config.json").is_file() else None
    said: list[str] = []
    config = config_lib.flatten(read_json(whole / "config.json", said)) if whole else {}
    metrics = read_metrics(whole / "metrics.jsonl", said) if whole else []
    warnings += [f"{folder.name}: {line}" for line in said]
    return Entry(place, record, config, metrics)


def _place(entry: Entry) -> str:
    """Returns the name of the workdir of a training, or of its record without one."""
    return entry.place.parent.name if entry.place.name == "result.json" else entry.place.stem


def _labels(groups: Mapping[tuple[str, str], Sequence[Entry]]) -> dict[tuple[str, str], str]:
    """Returns the name of each run; one that several have is followed by a place."""
    names = {key: str(entries[0].record["name"]) for key, entries in groups.items()}
    epochs = {key: f"{entries[0].record['epochs']:g} epochs" for key, entries in groups.items()}
    labels = {}
    for key, name in names.items():
        same = [other for other in names if names[other] == name]
        if len({epochs[other] for other in same}) > 1:
            name += f", {epochs[key]}"
        if sum(epochs[other] == epochs[key] for other in same) > 1:
            name += f" ({_place(groups[key][0])})"
        labels[key] = name
    return labels


def _content(
    groups: Mapping[tuple[str, str], Sequence[Entry]],
    labels: Mapping[tuple[str, str], str],
    warnings: list[str],
    points: int,
) -> dict[str, Any]:
    colours = _colours(len(groups))
    curves, notes = _draw(groups, colours, points)
    runs = []
    for (key, entries), colour in zip(groups.items(), colours, strict=True):
        places = [_place(entry) for entry in entries]
        others = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
        runs.append(
            {
                "label": labels[key], "colour": colour,
                "epochs": f"{entries[0].record['epochs']:g}",
                "seeds": ", ".join(str(entry.record["seed"]) for entry in entries),
                "places": ", ".join(places[:NAMED]) + others,
                "drawn": any(entry.metrics for entry in entries),
            }
        )  # fmt: skip
    tables, protocols = _tables(groups, labels)
    settings, known, settings_notes = _settings(groups)
    return {
        "title": f"{len(runs)} runs" if len(runs) > 1 else "One run", "warnings": warnings,
        "runs": runs, "tables": tables, "protocols": protocols,
        "curves": uri_of("svg+xml", curves.encode()) if curves else "", "curve_notes": notes,
        "settings": settings, "settings_of": [labels[key] for key in known],
        "settings_notes": settings_notes,
    }  # fmt: skip


def _tables(
    groups: Mapping[tuple[str, str], Sequence[Entry]], labels: Mapping[tuple[str, str], str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns a table for each probe, metric and protocol; and the protocols, which it numbers."""
    tables: dict[tuple[str, str, str], dict[str, Any]] = {}
    lines = results.lines_of([entry.record for group in groups.values() for entry in group])
    protocols = list(dict.fromkeys(line.protocol for line in lines))
    for line in lines:
        table = tables.setdefault(
            (line.probe, line.metric, line.protocol),
            {"probe": line.probe, "metric": line.metric, "rows": [],
             "mark": protocols.index(line.protocol) + 1},
        )  # fmt: skip
        label = labels[str(line.record["run_hash"]), str(line.record["name"])]
        table["rows"].append((label, line.cells, line.seeds, line.minutes))
    return list(tables.values()), protocols


def _settings(
    groups: Mapping[tuple[str, str], Sequence[Entry]],
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]], list[str]]:
    """Returns the settings that differ, the runs whose settings are known, and sentences."""
    known = [key for key, entries in groups.items() if any(entry.config for entry in entries)]
    notes = []
    if len(known) < len(groups):
        notes.append(
            f"{len(groups) - len(known)} of {len(groups)} runs are records without a workdir: "
            "their settings and curves are not known."
        )
    configs = {key: [entry.config for entry in groups[key] if entry.config] for key in known}
    keys = {name for group in configs.values() for config in group for name in config}
    rows = []
    for name in sorted(keys):
        if name.startswith(NO_WEIGHTS):
            continue
        values = [
            " / ".join(dict.fromkeys(str(config.get(name, "–")) for config in configs[key]))
            for key in known
        ]
        if len({*values}) > 1 or any(" / " in value for value in values):
            rows.append((name, values))
    if known and not rows:
        notes.insert(0, "The runs whose settings are known have the same ones, but for the seed.")
    return rows, known, notes


def _colours(count: int) -> list[str]:
    with unchanged():
        import matplotlib

    few = matplotlib.colormaps["tab10"]
    many = matplotlib.colormaps["turbo"]
    chosen = [few(i) if count <= COLOURS else many((i + 0.5) / count) for i in range(count)]
    return [str(matplotlib.colors.to_hex(colour)) for colour in chosen]


def _draw(
    groups: Mapping[tuple[str, str], Sequence[Entry]], colours: Sequence[str], points: int
) -> tuple[str, list[str]]:
    """Draws the numbers of all runs over each other; returns the SVG, '' without numbers."""
    entries = [entry for group in groups.values() for entry in group if entry.metrics]
    plots = [plot for plot in PLOTS if any(plot[1] in row for e in entries for row in e.metrics)]
    if not plots:
        return "", ["None of these runs has a metrics.jsonl with these numbers beside its record."]
    with unchanged():
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

    per_epoch = all(entry.config.get("run.steps_per_epoch") for entry in entries)
    settings: Any = {
        "svg.hashsalt": "jssl", "svg.fonttype": "path", "font.size": 9, "axes.titlesize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,
        "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(10.5, 3.6 if len(plots) > 1 else 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (title, key, unit, factor) in zip(
            figure.subplots(1, len(plots), squeeze=False).ravel(), plots, strict=True
        ):
            for group, colour in zip(groups.values(), colours, strict=True):
                for entry in group:
                    scale = entry.config["run.steps_per_epoch"] if per_epoch else 1
                    _line(axes, entry, key, colour, factor=factor, scale=scale, points=points)
            axes.set_title(title, loc="left")
            axes.set_ylabel(unit)
            axes.set_xlabel("epochs" if per_epoch else "updates")
            axes.locator_params(axis="x", nbins=5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    notes = ["A line per training; trainings that differ in the seed only have one colour."]
    if any(plot[1] == "loss" for plot in plots):
        notes.append("Losses are smoothed; those of different methods are different quantities.")
    return buffer.getvalue().decode(), notes


def _line(
    axes: Any, entry: Entry, key: str, colour: str, *, factor: float, scale: float, points: int
) -> None:
    if not entry.metrics:
        return
    steps, values = (np.array(part) for part in series(entry.metrics, key))
    keep = np.isfinite(values)
    x, y = steps[keep] / scale, factor * values[keep]
    if not len(y):
        return
    if key == "loss":
        y = smoothed(y, 2 * (int(SMOOTHED * len(y)) // 2) + 1)
    few = np.unique(np.linspace(0, len(y) - 1, min(len(y), points)).astype(int))
    mark = "o" if len(y) <= 30 else ""
    axes.plot(x[few], y[few], color=colour, linewidth=1.2, marker=mark, markersize=3, alpha=0.85)
