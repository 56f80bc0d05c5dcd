"""`jssl evaluate`: runs protocols, and writes their records and the model card."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jssl import files, methods
from jssl.errors import NotWrittenError, UserError, nearest
from jssl.evaluate.context import KINDS, Context, Settings, check_preset
from jssl.evaluate.protocol import Protocol, Row, need_colours
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
    label_efficient,
    layers,
    linear,
    logistic,
    mlp,
    retrieval,
    robustness,
    softmax_regression,
    transfer,
    voc,
    voc2007_finetune,
    voc_all,
    voc_detection,
    voc_fc68,
    voc_fc68_affine,
    voc_segmentation,
)
from jssl.evaluate.table import format_table, table_lines
from jssl.precision import narrow
from jssl.run import stores, versions, workdir
from jssl.run.build import Experiment
from jssl.third_party import same_handlers
from jssl.types import TrainState

ALL = "all"
DEFAULT = "default"  # kNN and one linear probe, which depends on the size of the train split
# Train examples from which on the default probe is `linear`. Below, the presets of ImageNet have
# too few steps for their rates (see `presets.SMALLEST_SUM`), and logistic regression takes seconds.
LARGE = 10_000
FOLDER = "evaluation"  # of the records, in the workdir
DRY_RUN = "dry_run"  # of those of --limit, in FOLDER


# In the order of the card.
PROTOCOLS: dict[str, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL
    for module in (
        knn, softmax_regression, mlp, classifier, linear, logistic, grid, label_efficient, layers,
        robustness,
        imagenet_a, imagenet_r, imagenet_v2, imagenet_c, imagenet_p, cifar10_c,
        retrieval, voc, voc_fc68, voc_fc68_affine, voc_all,
        voc_detection, voc_segmentation, transfer, voc2007_finetune,
    )
}  # fmt: skip


def check_settings(
    protocols: Sequence[str], given: Mapping[str, Any], *, typed: bool = True
) -> None:
    """Checks the names of protocols and the flags, before anything is read.

    Args:
        protocols: names of `PROTOCOLS`, 'all' or 'default'.
        given: the fields of `Settings` that are not at their default.
        typed: whether they are flags; `Settings` from a program may have fields that no protocol
            reads.

    Raises:
        UserError: an unknown protocol; a flag that none of the protocols reads; a value out of its
            range.
    """
    for name in protocols:
        if name not in (ALL, DEFAULT, *PROTOCOLS):
            choices = nearest(name, [*PROTOCOLS, ALL, DEFAULT])
            raise UserError(f"Unknown protocol '{name}': {choices}.")
        if name == DEFAULT and len(protocols) > 1:
            raise UserError(f"--protocol={DEFAULT} stands alone: leave the others out, or it.")
    single = [name for name in protocols if name not in (ALL, DEFAULT)]
    single += ["knn", "linear", "logistic"] if DEFAULT in protocols else []
    used = {"step", "limit"}.union(*(PROTOCOLS[name].uses for name in single))
    for name in given:
        if typed and ALL not in protocols and name not in used:
            readers = [n for n, p in PROTOCOLS.items() if name in p.uses]
            raise UserError(
                f"--{name} has no effect on --protocol={','.join(protocols)}: it is read by "
                f"{', '.join(readers)}. Leave it out."
            )
    for name, lowest in (
        ("k", 1),
        ("epochs", 0),
        ("seed", 0),
        ("step", 0),
        ("limit", 1),
        ("seeds", 1),
        ("wd", 0),
    ):
        if given.get(name, lowest) < lowest:
            raise UserError(f"--{name} expects {lowest} or more, found {given[name]}.")
    label_efficient.fractions_of(given.get("fraction", "1"))
    for name in ("temperature", "lr"):
        if not given.get(name, 1.0) > 0:
            raise UserError(f"--{name} expects a number above 0, found {given[name]}.")
    cached = [name for name in ("grid", "layers", "mlp") if name in protocols]
    if cached and given.get("epochs", 0) % 1:
        raise UserError(
            f"--protocol={cached[0]} takes whole epochs, found --epochs={given['epochs']:g}."
        )


@narrow
@same_handlers()
def evaluate_run(
    folder: str | Path, *, protocols: Sequence[str], settings: Settings | None = None
) -> list[Row]:
    """Evaluates a checkpoint by the named protocols; the network is not changed.

    Args:
        folder: the workdir of the run.
        protocols: of `PROTOCOLS`; 'default' is kNN and logistic regression, or from 10,000 train
            examples on the linear protocol, also if `preset` or `epochs` is given; 'all' runs those
            that this run and its data allow, and writes the model card, `card.md` in the workdir,
            which lists what the others lack.
        settings: of the protocols; the defaults of `Settings` when None.

    Returns:
        The rows that were printed. Those of each protocol are also in `evaluation/NAME.json` in
        the workdir, with the data set, the split, the seed and the hash of the network. Those of
        a dry run (`settings.limit`) say so, are in `evaluation/dry_run/`, and make no model card.

    Raises:
        UserError: unknown protocol, preset or feature, no labels, no checkpoint, or a workdir that
            cannot be written.
        NotWrittenError: the table was printed, but a record could not be written.
    """
    settings = settings or Settings()
    changed = {k: v for k, v in settings._asdict().items() if v != Settings._field_defaults[k]}
    check_settings(protocols, changed, typed=False)
    if {"linear", ALL, DEFAULT} & {*protocols}:
        check_preset(settings.preset)
    _check_records(folder)
    context = Context.load(folder, settings)
    unwritten: list[str] = []
    beside: list[Path] = []  # files beside the records

    def write(path: Path, content: bytes) -> bool:
        try:
            files.write_bytes(path, content)
        except OSError as error:  # the results are still printed
            unwritten.append(f"{path} ({error.strerror})")
            return False
        return True

    missing: dict[str, str] = {}
    footnote = ""
    if DEFAULT in protocols:
        protocols, footnote = _default(context)
    if ALL in protocols:
        missing = {name: needed for name, p in PROTOCOLS.items() if (needed := p.lacks(context))}
        protocols = [name for name in PROTOCOLS if name not in missing]
    rows: list[Row] = []
    baselines: list[Row] = []
    for name in protocols:
        if PROTOCOLS[name].colours and context.channels != 3:
            raise UserError(
                f"Protocol '{name}' needs {need_colours(context)}. Type --protocol=all for those "
                "that this run allows."
            )
    for name in protocols:
        result = PROTOCOLS[name].run(context)
        if PROTOCOLS[name].baseline and not baselines:
            baselines = knn.baselines(context)
        result = _dry(result, settings.limit)
        shown = _dry(baselines, settings.limit) if PROTOCOLS[name].baseline else []
        record = _record(context, name, result + shown)
        write(_place(context, f"{name}.json"), (json.dumps(record, indent=1) + "\n").encode())
        for file, content in PROTOCOLS[name].files(context).items():
            if write(path := _place(context, file), content):
                beside.append(path)
        rows += result
    if "knn" not in protocols:
        rows += _dry(baselines, settings.limit)
    print(format_table(rows))
    if footnote:
        print(footnote)
    if beside:
        print(stores.shown(f"Also written: {', '.join(map(str, beside))}"))
    if settings.limit:
        records = stores.shown(str(context.folder / FOLDER / DRY_RUN))
        print(f"{_dry_run_note(settings.limit)}. Records: {records}")
    elif missing:
        path = context.folder / "card.md"
        if write(path, card(context, rows, missing).encode()):
            print(f"Model card: {stores.shown(str(path))}")
    if unwritten:
        raise NotWrittenError(unwritten)
    return rows


def _default(context: Context) -> tuple[list[str], str]:
    """Returns the default protocols, and a footnote on the rule; '' if the user chose the probe."""
    settings, train = context.settings, context.sources[0]
    if settings.preset or settings.epochs:
        return ["knn", "linear"], ""
    count = len(train.source if settings.limit else train)  # a dry run runs what the run would
    rule = (
        f"By default the linear probe is `logistic` below {LARGE:,} train examples, `linear` from "
        f"there on; {train.name} has {count:,}."
    )
    probe, other = ("logistic", "linear") if count < LARGE else ("linear", "logistic")
    return ["knn", probe], f"{rule} The other one: --protocol={other}."


def _dry_run_note(limit: int) -> str:
    return f"DRY RUN on {limit:,} pictures of each split, NO RESULT"


def _dry(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """Marks the rows of a dry run: every protocol's text begins with what it is."""
    if not limit:
        return list(rows)
    note = _dry_run_note(limit)

    def marked(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "protocol": f"{note}: {entry['protocol']}"}

    return [
        {**marked(row), "numbers": {kind: marked(n) for kind, n in row["numbers"].items()}}
        for row in rows
    ]


def _place(context: Context, file: str) -> Path:
    """Returns the path of a record or a file beside it; a dry run never has the name of either."""
    records = context.folder / FOLDER
    if not (limit := context.settings.limit):
        return records / file
    (records / DRY_RUN).mkdir(exist_ok=True)
    name, _, ending = file.rpartition(".")
    return records / DRY_RUN / f"{name}_limit_{limit}.{ending}"


def _check_records(folder: str | Path) -> None:
    """Raises UserError if the records cannot be written, before anything is computed."""
    workdir.read_config(folder)
    records = Path(folder) / FOLDER
    try:
        records.mkdir(exist_ok=True)
        for place in (records, records.parent):
            files.check_folder(place)
    except OSError as error:
        raise UserError(
            f"The records of an evaluation go to {records}, which cannot be written "
            f"({error.strerror}). Copy the workdir to a disk with room, and type its --workdir."
        ) from None


def _record(context: Context, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    limit = context.settings.limit
    record = {
        "protocol": f"{_dry_run_note(limit)}: {name}" if limit else name,
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
    """Raises if a record is incomplete: an error in a protocol, not of the user.

    Every number has a value, its 95 % interval and its protocol as text, and its number of
    examples is in the record's `data`.

    Args:
        record: as it is written; `data` may be nested.

    Raises:
        ValueError: naming the protocol, the row and the missing key.

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
            missing = [key for key in ("ci95", "count", "protocol") if not number.get(key)]
            if "top1" not in number and "value" not in number:
                missing.append("value")
            if missing or len(number["ci95"]) != 2:
                raise ValueError(f"{where}, row {row['probe']}: no {', '.join(missing)}.")
            if number["count"] not in sizes:
                raise ValueError(
                    f"{where}, row {row['probe']}: a number of {number['count']:,} examples, but "
                    f"the data say {' or '.join(f'{size:,}' for size in sizes)}."
                )


def _integers(data: Any) -> set[int]:
    """Returns all integers in the `data` of a record."""
    if isinstance(data, dict):
        return set().union(*map(_integers, data.values()))
    if isinstance(data, list | tuple):
        return set().union(*map(_integers, data))
    return {data} if isinstance(data, int) else set()


def card(context: Context, rows: Sequence[Row], missing: dict[str, str]) -> str:
    """Returns the model card in Markdown: the model, all numbers, the missing protocols."""
    config, software = context.config, versions.collect()
    lines = [
        f"# {config.method} trained on {config.data.name}",
        "",
        f"Step {int(context.state.step):,}, seed {config.seed}, images of {context.size} px. "
        f"Network sha256 `{context.sha256}`.",
        f"Evaluated with jssl of git {software['git']}, jax {software['libraries']['jax']}, on "
        f"{software['devices']}. The records are in `{FOLDER}/`.",
        "",
        "| probe | features | metric | % | 95 % interval | protocol |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells) + " |" for row in rows for cells in table_lines(row)]
    lines += ["", "The intervals assume independent examples and do not include the variation "
              "between training seeds.", "", "Not evaluated:", ""]  # fmt: skip
    lines += [f"* {name}: it needs {needed}." for name, needed in missing.items()]
    return "\n".join(lines) + "\n"


def final_rows(
    parts: Experiment, state: TrainState, *, compiled: Callable[..., Any] | None = None
) -> list[Row]:
    """Computes the table at the end of a run: kNN, softmax regression, own classifier and grid.

    The same for the untrained network (the state before the first step, from the same seed) and
    raw pixels.

    Args:
        parts: of the run.
        state: global.
        compiled: `parts.launcher.compile_embed(parts.method.embed)`, if the caller has it.
    """
    spec = methods.get(parts.config.method)
    context = Context.running(
        parts, state, compiled=compiled or parts.launcher.compile_embed(parts.method.embed)
    )
    rows = [*knn.run(context), *softmax_regression.run(context)]
    if spec.has_classifier:
        rows += classifier.rows(context)
    if spec.grid_feature is not None:
        rows += grid.run(context, KINDS)
    return rows
