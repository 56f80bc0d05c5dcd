"""`jssl evaluate`: the protocols by name, the record that each leaves, and the model's card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jssl import files, methods
from jssl.errors import NotWrittenError, UserError, nearest
from jssl.evaluate.context import KINDS, Context, Settings, check_preset
from jssl.evaluate.protocol import Protocol, Row
from jssl.evaluate.protocols import (
    cifar10_c,
    classifier,
    grid,
    imagenet_a,
    imagenet_c,
    imagenet_p,
    imagenet_r,
    imagenet_v2,
    knn,
    layers,
    linear,
    logistic,
    retrieval,
    robustness,
    softmax_regression,
    transfer,
    voc,
    voc_all,
    voc_fc68,
)
from jssl.evaluate.table import format_table, table_lines
from jssl.precision import narrow
from jssl.run import versions, workdir
from jssl.run.build import Experiment
from jssl.third_party import same_handlers
from jssl.types import TrainState

ALL = "all"
FOLDER = "evaluation"  # of the records, in the workdir


# In the order of the card.
PROTOCOLS: dict[str, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL
    for module in (
        knn, softmax_regression, classifier, linear, logistic, grid, layers, robustness,
        imagenet_a, imagenet_r, imagenet_v2, imagenet_c, imagenet_p, cifar10_c,
        retrieval, voc, voc_fc68, voc_all, transfer,
    )
}  # fmt: skip


def check_settings(
    protocols: Sequence[str], given: Mapping[str, Any], *, typed: bool = True
) -> None:
    """Checks the protocols and the flags that were typed, before anything is read.

    Args:
        protocols: names of `PROTOCOLS`, or 'all'.
        given: of the fields of `Settings`, those that are not at their default.
        typed: whether they are flags; one `Settings` of a program may serve several protocols.

    Raises:
        UserError: an unknown protocol; a flag that none of the protocols reads; a value out of its
            range.
    """
    for name in protocols:
        if name != ALL and name not in PROTOCOLS:
            raise UserError(f"Unknown protocol '{name}': {nearest(name, [*PROTOCOLS, ALL])}.")
    used = {"step"}.union(*(PROTOCOLS[name].uses for name in protocols if name != ALL))
    for name in given:
        if typed and ALL not in protocols and name not in used:
            readers = [n for n, p in PROTOCOLS.items() if name in p.uses]
            raise UserError(
                f"--{name} says nothing about --protocol={','.join(protocols)}: it is read by "
                f"{', '.join(readers)}. Leave it out."
            )
    for name, lowest in (("k", 1), ("epochs", 0), ("seed", 0), ("step", 0)):
        if given.get(name, lowest) < lowest:
            raise UserError(f"--{name} expects {lowest} or more, found {given[name]}.")
    if not given.get("temperature", 1.0) > 0:
        raise UserError(f"--temperature expects a number above 0, found {given['temperature']}.")
    cached = [name for name in ("grid", "layers") if name in protocols]
    if cached and given.get("epochs", 0) % 1:
        raise UserError(
            f"--protocol={cached[0]} takes whole epochs, found --epochs={given['epochs']:g}."
        )


@narrow
@same_handlers()
def evaluate_run(
    folder: str | Path, *, protocols: Sequence[str], settings: Settings | None = None
) -> list[Row]:
    """Judges a checkpoint by the named protocols; the network is never written to.

    Args:
        folder: the workdir of the run.
        protocols: of `PROTOCOLS`; 'all' runs those that this run and its data allow, and writes
            the model's card, `card.md` in the workdir, which says what the others lack.
        settings: of the protocols; the defaults of `Settings` when None.

    Returns:
        The rows that were printed. Each protocol's are also in `evaluation/NAME.json` in the
        workdir, with the data set, the split, the seed and the hash of the network.

    Raises:
        UserError: unknown protocol, preset or feature, no labels, no checkpoint, or a workdir that
            cannot be written.
        NotWrittenError: the table was printed, but a record could not be written.
    """
    settings = settings or Settings()
    changed = {k: v for k, v in settings._asdict().items() if v != Settings._field_defaults[k]}
    check_settings(protocols, changed, typed=False)
    if "linear" in protocols or ALL in protocols:
        check_preset(settings.preset)
    _check_records(folder)
    context = Context.load(folder, settings)
    unwritten: list[str] = []

    def write(path: Path, text: str) -> bool:
        try:
            files.write_text(path, text)
        except OSError as error:  # what was computed is shown all the same
            unwritten.append(f"{path} ({error.strerror})")
            return False
        return True

    lacking: dict[str, str] = {}
    if ALL in protocols:
        lacking = {name: words for name, p in PROTOCOLS.items() if (words := p.needs(context))}
        protocols = [name for name in PROTOCOLS if name not in lacking]
    rows: list[Row] = []
    baselines: list[Row] = []
    for name in protocols:
        found = PROTOCOLS[name].run(context)
        if PROTOCOLS[name].baseline and not baselines:
            baselines = knn.baselines(context)
        record = _record(context, name, found + (baselines if PROTOCOLS[name].baseline else []))
        write(context.folder / FOLDER / f"{name}.json", json.dumps(record, indent=1) + "\n")
        rows += found
    if "knn" not in protocols:
        rows += baselines
    print(format_table(rows))
    if lacking:
        path = context.folder / "card.md"
        if write(path, card(context, rows, lacking)):
            print(f"The card: {path}")
    if unwritten:
        raise NotWrittenError(unwritten)
    return rows


def _check_records(folder: str | Path) -> None:
    """Raises UserError when the records cannot be written, before anything is computed."""
    workdir.read_config(folder)
    records = Path(folder) / FOLDER
    try:
        records.mkdir(exist_ok=True)
        for place in (records, records.parent):
            files.check_folder(place)
    except OSError as error:
        raise UserError(
            f"The records of an evaluation belong into {records}, which cannot be written "
            f"({error.strerror}). Copy the workdir to a disk with room, and type its --workdir."
        ) from None


def _record(context: Context, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    record = {
        "protocol": name,
        "method": context.config.method,
        "data": PROTOCOLS[name].data(context),
        "selects": PROTOCOLS[name].selects,
        "seed": context.settings.seed,
        "run_seed": context.config.seed,
        "checkpoint": {"step": int(context.state.step), "sha256": context.sha256},
        "settings": {
            k: versions.without_folders(v) if isinstance(v, str) else v
            for k, v in context.settings._asdict().items()
        },
        "rows": list(rows),
        "versions": versions.collect(),
    }
    check_record(record)
    return record


def check_record(record: dict[str, Any]) -> None:
    """Raises unless a record says what its numbers are of: a mistake in a protocol, not a user's.

    Every number has a value, its 95 % interval and its protocol in words, and is of as many
    examples as the record's `data` say that there are.

    Args:
        record: as it is written; `data` may hold sets within sets.

    Raises:
        ValueError: naming the protocol, the row and what it lacks.

    Example:
        >>> number = {'top1': 0.5, 'ci95': [0.1, 0.9], 'count': 2, 'protocol': 'toy'}
        >>> record = {'protocol': 'knn', 'data': {'name': 'toy', 'examples': 2},
        ...           'rows': [{'probe': 'kNN', 'numbers': {'trained': number}}]}
        >>> check_record(record)
        >>> check_record({**record, 'data': {'name': 'toy', 'examples': 3}})
        Traceback (most recent call last):
        ...
        ValueError: Protocol 'knn', row kNN: a number of 2 examples, but the data say 3.
    """
    sizes = sorted(_integers(record["data"]))
    where = f"Protocol '{record['protocol']}'"
    if not record["rows"]:
        raise ValueError(f"{where} has no rows.")
    for row in record["rows"]:
        for number in row["numbers"].values():
            lacking = [key for key in ("ci95", "count", "protocol") if not number.get(key)]
            if "top1" not in number and "value" not in number:
                lacking.append("value")
            if lacking or len(number["ci95"]) != 2:
                raise ValueError(f"{where}, row {row['probe']}: no {', '.join(lacking)}.")
            if number["count"] not in sizes:
                raise ValueError(
                    f"{where}, row {row['probe']}: a number of {number['count']:,} examples, but "
                    f"the data say {' or '.join(f'{size:,}' for size in sizes)}."
                )


def _integers(data: Any) -> set[int]:
    """All the numbers of examples in what a record says of its data."""
    if isinstance(data, dict):
        return set().union(*map(_integers, data.values()))
    if isinstance(data, list | tuple):
        return set().union(*map(_integers, data))
    return {data} if isinstance(data, int) else set()


def card(context: Context, rows: Sequence[Row], lacking: dict[str, str]) -> str:
    """The model's card in Markdown: what it is, every number with its protocol, what is absent."""
    config, made = context.config, versions.collect()
    lines = [
        f"# {config.method} trained on {config.data.name}",
        "",
        f"Step {int(context.state.step):,}, seed {config.seed}, images of {context.size} px. "
        f"Network sha256 `{context.sha256}`.",
        f"Judged with jssl of git {made['git']}, jax {made['libraries']['jax']}, on "
        f"{made['devices']}. The records are in `{FOLDER}/`.",
        "",
        "| probe | features | metric | % | 95 % interval | protocol |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells) + " |" for row in rows for cells in table_lines(row)]
    lines += ["", "The intervals are for independent examples and say nothing of how training "
              "differs between seeds.", "", "Not judged:", ""]  # fmt: skip
    lines += [f"* {name}: it needs {words}." for name, words in lacking.items()]
    return "\n".join(lines) + "\n"


def final_rows(parts: Experiment, state: TrainState) -> list[Row]:
    """The table at the end of a run: its features by kNN and softmax regression, and what it has.

    Beside the trained network stand the untrained one (the state before the first step, from the
    same seed) and raw pixels.
    """
    spec = methods.get(parts.config.method)
    context = Context.running(
        parts, state, compiled=parts.launcher.compile_embed(parts.method.embed)
    )
    rows = [*knn.run(context), *softmax_regression.run(context)]
    if spec.has_classifier:
        rows += classifier.run(context)
    if spec.grid_feature is not None:
        rows += grid.run(context, KINDS)
    return rows
