"""`jssl evaluate`: the protocols by name, the record that each leaves, and the model's card."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jssl import files
from jssl.errors import NotWrittenError, UserError, nearest
from jssl.evaluate.context import Settings, Subject, check_preset
from jssl.evaluate.probes.layers import LAYER
from jssl.evaluate.protocols import (
    corruptions,
    frozen_features,
    imagenet_p,
    imagenet_variants,
    retrieval,
    transfer,
    voc,
)
from jssl.evaluate.table import format_table, table_lines
from jssl.precision import narrow
from jssl.run import versions, workdir
from jssl.third_party import same_handlers

Row = dict[str, Any]
ALL = "all"
FOLDER = "evaluation"  # of the records, in the workdir


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to judge a run.

    Attributes:
        run: makes the rows of the table; each number says its whole protocol.
        missing: what a subject lacks for it, in words; '' where it can be judged so. `all` runs
            the protocols that lack nothing, and the card says what the others lack.
        baseline: whether the untrained net and raw pixels are probed beside it; not where its own
            rows hold them, or where it is no probe of features.
        data: what the record says of the examples.
        uses: the settings that it reads, besides `step`; another one is refused.
        selects: what is chosen by labels, and of which examples, in words; '' where nothing is. It
            is never the test split: a test poisons its labels, and nothing else may change.
    """

    run: Callable[[Subject], list[Row]]
    missing: Callable[[Subject], str]
    uses: tuple[str, ...] = ()
    baseline: bool = False
    data: Callable[[Subject], dict[str, Any]] = lambda subject: _halves(subject)
    selects: str = ""


def _halves(subject: Subject) -> dict[str, Any]:
    train, test = subject.halves
    return {
        "name": test.name,
        "split": "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(train),
    }


def _labels(subject: Subject) -> str:
    if subject.settings.source in retrieval.SETS:
        return "a labelled data set: another --source"
    train, test = subject.halves
    if min(train.num_classes, test.num_classes) < 2:
        return f"labels in both splits of '{test.name}'"
    return ""


def _grid(subject: Subject) -> str:
    return _labels(subject) if subject.grid_feature else "a grid of patches: a run of cpc"


def _layers(subject: Subject) -> str:
    found = any(re.fullmatch(LAYER, name) for name in subject.outputs)
    return _labels(subject) if found else "intermediates layerN, block_groupN or convN"


def _classifier(subject: Subject) -> str:
    if "logits" not in subject.outputs:
        return "a classifier of its own: a run of supervised, noisy_student or deit"
    if words := _labels(subject):
        return words
    words = subject.other_classes(subject.halves[1])
    return f"a data set of the classifier's own classes, found {words}" if words else ""


def _published(name: str, run: Callable[..., list[Row]]) -> Protocol:
    lacks = functools.partial(imagenet_variants.lacks, name=name)
    return Protocol(
        run,
        lacks,
        ("data_dir", "seed"),
        data=functools.partial(imagenet_variants.describe, name=name),
    )


_DATA = ("source", "data_dir")
_KNN = ("k", "temperature")  # with a baseline too: it is kNN of the untrained net
PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(frozen_features.knn, _labels, (*_KNN, *_DATA, "feature")),
    "linear": Protocol(
        frozen_features.linear,
        _labels,
        (*_KNN, *_DATA, "feature", "preset", "epochs", "seed"),
        baseline=True,
    ),
    "logistic": Protocol(
        frozen_features.logistic,
        _labels,
        (*_DATA, "feature", "seed"),
        selects="the regulariser, on a fifth of the train split",
    ),
    "grid": Protocol(frozen_features.grid, _grid, (*_KNN, *_DATA, "epochs"), baseline=True),
    "layers": Protocol(
        frozen_features.layers,
        _layers,
        (*_KNN, *_DATA, "epochs", "seed"),
        baseline=True,
        selects="the layer named best, on a fifth of the train split",
    ),
    "robustness": Protocol(corruptions.robustness, _classifier, (*_DATA, "seed")),
    **{
        name: _published(name, functools.partial(imagenet_variants.subset, name=name))
        for name in ("imagenet_a", "imagenet_r", "imagenet_v2")
    },
    "imagenet_c": _published("imagenet_c", imagenet_variants.imagenet_c),
    "imagenet_p": Protocol(
        imagenet_p.imagenet_p, imagenet_p.lacks, ("data_dir", "seed"), data=imagenet_p.describe
    ),
    "cifar10_c": _published("cifar10_c", imagenet_variants.cifar10_c),
    "retrieval": Protocol(
        retrieval.retrieval,
        retrieval.lacking,
        (*_DATA, "feature", "seed"),
        data=retrieval.described,
    ),
    "voc": Protocol(
        voc.frozen,
        voc.lacking,
        ("data_dir", "feature", "seed"),
        data=voc.described,
        selects="the regulariser, on the validation split",
    ),
    **{
        name: Protocol(
            voc.finetuned(name),
            voc.lacking_finetuned,
            ("data_dir", "epochs", "seed"),
            data=voc.described,
        )
        for name in ("voc_fc68", "voc_all")
    },
    "transfer": Protocol(
        transfer.transfer,
        transfer.missing,
        (*_DATA, "feature", "seed"),
        data=transfer.described,
        selects="the regulariser, on the validation split",
    ),
}


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
    subject = Subject(folder, settings)
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
        lacking = {name: words for name, p in PROTOCOLS.items() if (words := p.missing(subject))}
        protocols = [name for name in PROTOCOLS if name not in lacking]
    rows: list[Row] = []
    baselines: list[Row] = []
    for name in protocols:
        found = PROTOCOLS[name].run(subject)
        if PROTOCOLS[name].baseline and not baselines:
            baselines = frozen_features.baselines(subject)
        record = _record(subject, name, found + (baselines if PROTOCOLS[name].baseline else []))
        write(subject.folder / FOLDER / f"{name}.json", json.dumps(record, indent=1) + "\n")
        rows += found
    if "knn" not in protocols:
        rows += baselines
    print(format_table(rows))
    if lacking:
        path = subject.folder / "card.md"
        if write(path, card(subject, rows, lacking)):
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


def _record(subject: Subject, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    record = {
        "protocol": name,
        "method": subject.config.method,
        "data": PROTOCOLS[name].data(subject),
        "selects": PROTOCOLS[name].selects,
        "seed": subject.settings.seed,
        "run_seed": subject.config.seed,
        "checkpoint": {"step": int(subject.state.step), "sha256": subject.sha256},
        "settings": {
            k: versions.without_folders(v) if isinstance(v, str) else v
            for k, v in subject.settings._asdict().items()
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


def card(subject: Subject, rows: Sequence[Row], lacking: dict[str, str]) -> str:
    """The model's card in Markdown: what it is, every number with its protocol, what is absent."""
    config, made = subject.config, versions.collect()
    lines = [
        f"# {config.method} trained on {config.data.name}",
        "",
        f"Step {int(subject.state.step):,}, seed {config.seed}, images of {subject.size} px. "
        f"Network sha256 `{subject.sha256}`.",
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
