"""The generated parts of docs/methods/NAME.md, docs/index.md and README.md.

A page has markers `<!-- settings: begin -->`, `<!-- numbers: begin -->` or `<!-- short: begin -->`.
"""

import functools
import re
from pathlib import Path

from jssl import methods
from jssl.run import results

RECORDS = Path(__file__).parents[1] / "configs" / "results"


def between(text, name, made):
    """The text with `made` between the markers of a name; as it is where it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text:
        return text
    before, rest = text.split(begin)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def settings(method):
    """A line for each key of `config.METHOD`: its default and what it may be."""
    rows = (
        (f"`{method}.{key}`", f"`{setting.default!r}`", setting.rule.expected)
        for key, setting in methods.get(method).settings.items()
    )
    return table(("key", "default", "may be"), rows)


@functools.cache
def result_rows():
    """The rows of the results table, each a list of its cells."""
    lines = results.table(results.load_records(RECORDS)).splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
    return rows[1:]  # without the head


def numbers(method):
    """The rows of the results table that are of a method."""
    rows = [row for row in result_rows() if row[0].startswith(f"{method} on ")]
    assert rows, f"configs/results has no record of {method}"
    head = ("run", "probe", "trained", "untrained net", "seeds")
    return table(head, ((*row[:4], row[6]) for row in rows))


def short():
    """A line for each method that was run with three seeds on photos: untrained, then trained."""
    runs = {}
    for run, probe, trained, untrained, _, _, seeds, minutes in result_rows():
        if seeds == "0, 1, 2" and re.fullmatch(r"\w+ on photos, \d+ epochs", run):
            runs.setdefault((run, minutes), {})[probe.removesuffix(" top-1 %")] = (
                f"{untrained} → {trained}"
            )
    head = ("run", "kNN top-1 %", "softmax regression top-1 %", "minutes")
    return table(
        head,
        ((run, row["kNN"], row["softmax_regression"], time) for (run, time), row in runs.items()),
    )


def page(name, text):
    """The page of a method, with its generated parts made anew."""
    text = between(text, "settings", settings(name))
    return between(text, "numbers", numbers(name)) if "<!-- numbers" in text else text


def with_short(text):
    return between(text, "short", short())
