"""The page of a report: what the files of a workdir say, put into a template."""

import base64
import functools
import io
import json
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from jssl import files, methods
from jssl.errors import UserError
from jssl.report import facts as facts_lib
from jssl.report.curves import draw_curves
from jssl.report.facts import Facts, read_facts
from jssl.run.writers import say
from jssl.third_party import unchanged

NAME = "report.html"
KEPT = "report_pictures.json"  # the sections of `jssl.report.sections`, for the next writing
TEMPLATE = "page.html.jinja"
MOST_BYTES = 5_000_000  # of the page
SHARE = 0.02  # of the time of a run that its report may take
MOST_OWN = 6  # pictures of the folder pictures/
OWN_SIDE = 1000  # their longer side, in pixels, at most
OWN_SHOWN = 800  # smaller ones are enlarged by a whole factor, up to this
OWN_TEXTS = {"reconstructions": ": in turn a row of pictures and, below, of their reconstructions"}


class Reporter:
    """Rewrites the report of a run while it trains, at most for `SHARE` of the time.

    A report that cannot be made ends no run: a warning says why.

    Args:
        folder: the workdir.
        enabled: `config.report.enabled`; False: nothing is written.
    """

    def __init__(self, folder: str | Path, *, enabled: bool):
        self._folder = Path(folder)
        self._enabled = enabled and jax.process_index() == 0
        self._next = 0.0

    def update(self, *, state: str = "", now: bool = False) -> None:
        """Writes the report if it is due, or `now`; `state` as in `write_report`."""
        started = time.monotonic()
        if not self._enabled or (started < self._next and not now):
            return
        try:
            write_report(self._folder, state=state)
        except Exception as error:
            warn(error)
        ended = time.monotonic()
        self._next = ended + (ended - started) / SHARE


def warn(error: Exception) -> None:
    """Says that a report was not made."""
    say(f"WARNING the report was not written ({type(error).__name__}: {error})")


def write_report(folder: str | Path, *, state: str = "", missing: str = "") -> Path:
    """Writes the report of a workdir from its files, and from the sections that were kept.

    Args:
        folder: the workdir.
        state: of the run, in words; by default what its files say.
        missing: why the sections of the network could not be made; '' if that is no error.

    Returns:
        The path of the page.

    Raises:
        UserError: a folder without a config.json.
        OSError: it cannot be written.
    """
    facts = read_facts(folder)
    warnings = list(facts.warnings)
    kept = _kept(facts.folder / KEPT, warnings)
    content = _content(facts, state)
    content |= {"warnings": warnings, "sections": kept.get("sections", [])}
    content["about"] = _about(facts, kept, missing)
    try:
        page = render(content, TEMPLATE)
    except Exception:  # of sections that are none; anything else is raised again
        content |= {"sections": [], "about": _about(facts, {}, missing)}
        warnings.append(f"{KEPT} is damaged, and left out.")
        page = render(content, TEMPLATE)
    while len(page.encode()) > MOST_BYTES and (content["sections"] or content["own"]):
        # The largest part makes room, and its place says so.
        parts = content["sections"] or content["own"]
        largest = max(parts, key=lambda part: len(json.dumps(part)))
        warnings.append(f"Left out, as the page would be above 5 MB: {largest['title']}.")
        content["sections" if content["sections"] else "own"] = [
            part for part in parts if part is not largest
        ]
        page = render(content, TEMPLATE)
    path = facts.folder / NAME
    files.write_text(path, page)
    return path


def _kept(path: Path, warnings: list[str]) -> dict[str, Any]:
    """Returns the sections that were kept, with their step; {} if they are damaged."""
    kept = facts_lib.read_json(path, warnings)
    kinds = {"step": int, "sections": list, "notes": list}
    if not all(isinstance(kept.get(key, kind()), kind) for key, kind in kinds.items()):
        warnings.append(f"{path.name} is damaged, and left out.")
        return {}
    return kept


def _about(facts: Facts, kept: dict[str, Any], missing: str) -> list[str]:
    """Returns sentences on the sections of the network: their step, or why there are none."""
    if methods_without_network(facts):
        return []
    lines = []
    if missing:
        lines.append(f"The network's pictures were not made: {missing}")
    step = kept.get("step")
    if kept.get("sections"):
        lines.append(f"By the network after step {step:,}, of {facts.run.total:,}.")
        lines += kept.get("notes", [])
    elif not missing:
        lines.append(
            "Views, neighbours, the map of the features, where the network looks, and the "
            "confusion matrix are made at the end of the run, or by `jssl report --workdir`."
        )
    return lines


def methods_without_network(facts: Facts) -> bool:
    """Whether the method of a run has no features of whole pictures: it detects or segments."""
    try:
        return bool(methods.get(facts.run.config.get("method", "")).data.dense)
    except UserError:
        return False


def _content(facts: Facts, state: str) -> dict[str, Any]:
    config = facts.run.config
    curves, notes = draw_curves(
        facts.metrics,
        steps_per_epoch=int(config.get("run.steps_per_epoch") or 0),
        untrained=facts_lib.untrained_knn(facts),
    )
    changed, unknown = facts_lib.changed_settings(config)
    lines, protocols = _table(facts.lines)
    return {
        "name": facts.folder.absolute().name,
        "facts": _facts(facts, state),
        "commands": _commands(facts),
        "lines": lines,
        "protocols": protocols,
        "no_table": _no_table(facts),
        "curves": uri_of("svg+xml", curves.encode()) if curves else "",
        "curve_notes": notes,
        "own": _own_pictures(facts.folder),
        "changed": changed,
        "unknown_preset": unknown,
        "preset": f"{config.get('method', '')} / {config.get('preset', '')}",
        "config": [(key, str(value)) for key, value in sorted(config.items())],
        "versions": _versions(facts.versions),
        "parameters": facts.parameters.strip(),
    }


def _facts(facts: Facts, state: str) -> list[tuple[str, str]]:
    config, run, result = facts.run.config, facts.run, facts.result
    rows = [
        ("method", f"{config.get('method', '?')} ({config.get('preset', '?')})"),
        ("network", f"{config.get('model.name', '?')}, {config.get('augment.size', '?')} px"),
        (
            "data",
            f"{config.get('data.name', '?')}, {config.get('run.num_examples') or '?'} examples",
        ),
        ("state", state or run.state),
    ]
    if "name" in result:
        rows.insert(0, ("run", str(result["name"])))
    last = max([run.step, *(row["step"] for row in facts.metrics[-1:])])
    rows.append(("steps", f"{last:,} of {run.total:,}" if run.total else f"{last:,}"))
    if per_epoch := config.get("run.steps_per_epoch"):
        rows.append(("epochs", f"{last / per_epoch:.4g} of {config.get('epochs')}"))
    seconds, what = facts_lib.seconds_of(facts)
    if seconds is not None:
        rows.append(("time", f"{seconds / 60:.1f} minutes ({what})"))
    peak = result.get("peak_memory_bytes")
    if type(peak) is int:
        rows.append(("memory", f"{peak / 1e9:.2f} GB at most, of the process that ended the run"))
    elif result:
        rows.append(("memory", "not recorded: the run ended by an older version of jssl"))
    return rows


def _commands(facts: Facts) -> list[tuple[str, str]]:
    folder = shlex.quote(facts.folder.absolute().name)
    command = facts.versions.get("command")
    rows = []
    if isinstance(command, str) and " train " in f" {command} ":
        rows.append(("train or resume", command))
    rows.append(("evaluate", f"jssl evaluate --workdir={folder} --protocol=all"))
    rows.append(("this report", f"jssl report --workdir={folder}"))
    return rows


def _table(lines: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns lines whose protocol is the number of a footnote, and the footnotes."""
    notes: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for probe, features, metric, value, interval, protocol in lines:
        # The protocol begins with the features and their dimensions, as the row does: numbers of
        # one protocol share a footnote.
        sized = re.match(re.escape(features) + r" \(\d+-d\)", protocol)
        shown = sized[0] if sized else features
        note = protocol.removeprefix(f"{shown}, ")
        mark = str(notes.setdefault(note, len(notes) + 1))
        rows.append((probe, shown, metric, value, interval, mark))
    return rows, list(notes)


def _no_table(facts: Facts) -> str:
    if facts.lines:
        return ""
    config = facts.run.config
    if config.get("final.enabled") is False:
        return "The table at the end is switched off (final.enabled)."
    if facts.run.state == "finished":
        return (
            "There is no result.json: the data have no labelled test split, or the evaluation at "
            "the end has not finished. jssl evaluate adds numbers."
        )
    return "The table is made at the end of the run."


def _own_pictures(folder: Path) -> list[dict[str, str]]:
    """Returns the newest picture of each kind in pictures/, such as reconstructions."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in sorted((folder / "pictures").glob("*.png")):
        kind, _, number = path.stem.rpartition("-")
        step = int(number) if kind and number.isdecimal() else -1
        kind = kind if step >= 0 else path.stem
        if step >= newest.get(kind, (-1, path))[0]:
            newest[kind] = step, path
    figures = []
    for kind, (step, path) in sorted(newest.items())[:MOST_OWN]:
        try:
            picture = Image.open(path).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            figures.append(
                {"title": kind, "text": f"{path.name} cannot be read: {error}", "src": ""}
            )
            continue
        picture.thumbnail((OWN_SIDE, OWN_SIDE))
        factor = max(1, OWN_SHOWN // max(picture.size))  # tiles of 32 px are hard to see
        size = (factor * picture.width, factor * picture.height)
        picture = picture.resize(size, Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        text = f"{kind}, step {step:,}" if step >= 0 else kind
        text += OWN_TEXTS.get(kind, "")
        figures.append({"title": kind, "text": text, "src": uri_of("jpeg", buffer.getvalue())})
    return figures


def _versions(versions: dict[str, Any]) -> list[tuple[str, str]]:
    libraries = versions.get("libraries")
    rows = (
        [] if not isinstance(libraries, dict) else [(str(k), str(v)) for k, v in libraries.items()]
    )
    rows += [
        (k, str(v)) for k, v in versions.items() if k not in ("libraries", "command") and v != ""
    ]
    return rows


def uri_of(kind: str, content: bytes) -> str:
    """Returns an image as a data URI; `kind` is such as 'jpeg'."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _template(name: str) -> Any:
    with unchanged():
        import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # Names of runs, classes and files are anybody's: everything is escaped.
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def render(content: dict[str, Any], template: str) -> str:
    """Returns the page of a template in this folder; everything in `content` is escaped."""
    return _template(template).render(**content).encode("utf-8", "backslashreplace").decode() + "\n"
