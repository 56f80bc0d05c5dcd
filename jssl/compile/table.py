"""Writes the tables of records in launch/README.md: `python -m jssl.compile.table DIR README`."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jssl import files
from jssl.compile.command import load
from jssl.compile.hardware import GIB
from jssl.errors import UserError

MARKS = {name: (f"<!-- {name}: begin -->", f"<!-- {name}: end -->") for name in ("fit", "scaling")}
HEAD = ("config", "topology", "devices", "batch a device (all)", "GiB a device of usable",
        "verdict", "TFLOP", "GB accessed", "collectives: MB, count (gradients alone, MB)",
        "estimate: ms a step, bound by", "hours", "images/s a host", "compile s")  # fmt: skip


def row(record: dict[str, Any]) -> list[str]:
    """Returns the cells of one record; the costs are empty if it did not compile."""
    memory, batch = record["memory"], record["batch"]
    verdict = "fits" if memory["fits"] else "does not fit"
    cells = [
        f"`{record['config']}`",
        record["topology"],
        str(record["devices"]),
        f"{batch['per_device']} ({batch['global']})",
        f"{memory['total'] / GIB:.2f} of {memory['usable'] / GIB:.2f}",
        f"{verdict}, {abs(memory['spare']) / GIB:.2f} {'spare' if memory['fits'] else 'over'}",
    ]
    seconds = f"{record['compile_seconds']:.0f}"
    if "effort" in record:
        seconds += f" (effort {record['effort']:g})"
    if "flops" not in record:
        return [*cells, "", "", "", "", "", "", seconds]
    roof, least = record["roofline"], record["least"]["gradient_bytes"]
    sent = ", ".join(
        f"{kind} {c['bytes'] / 1e6:.1f}, {c['count']}" for kind, c in record["collectives"].items()
    )
    return [
        *cells,
        f"{record['flops'] / 1e12:.2f}",
        f"{record['bytes_accessed'] / 1e9:.1f}",
        f"{sent or 'none'} ({least / 1e6:.1f})",
        f"{1e3 * roof['step_seconds']:.1f}, {roof['bound']}",
        f"{roof['run_hours']:.1f}",
        f"{roof['images_per_second'] / record['hosts']:,.0f}",
        seconds,
    ]


SCALING_HEAD = ("config", "fixed", "chips", "batch a chip", "global batch", "GiB a chip",
                "arithmetic ms", "memory ms", "links ms", "latency ms", "step ms", "images/s",
                "images/s a chip, of the first", "images/s a host")  # fmt: skip
FIXED = {"per_device": "batch a chip", "global": "global batch"}


def scaling_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the cells of configs on slices of several sizes, by what is fixed between them."""
    records = sorted(records, key=lambda record: record["devices"])
    families: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for record, key in itertools.product(records, FIXED):
        families.setdefault((record["method"], key, record["batch"][key]), []).append(record)
    return [
        scaling_row(record, key, family[0])
        for (_, key, _), family in sorted(families.items())
        for record in family
        if len(family) > 1
    ]


def scaling_row(record: dict[str, Any], key: str, first: dict[str, Any]) -> list[str]:
    """Returns the cells of one record; `first` is that of its family with the fewest chips."""

    def speed(record: dict[str, Any]) -> float:
        return record["roofline"]["images_per_second"] / record["devices"]

    batch, memory = record["batch"], record["memory"]
    cells = [f"`{record['config'].split()[0]}`", FIXED[key], str(record["devices"])]
    cells += [str(batch["per_device"]), f"{batch['global']:,}", f"{memory['total'] / GIB:.1f}"]
    if "flops" not in record:
        return [*cells, "does not fit", *[""] * 7]
    roof = record["roofline"]
    times = [roof["seconds"][k] for k in ("arithmetic", "memory", "interconnect", "latency")]
    cells += [f"{1e3 * seconds:.2f}" for seconds in (*times, roof["step_seconds"])]
    share = f"{speed(record) / speed(first):.2f}" if "flops" in first else ""
    images = roof["images_per_second"]
    return [*cells, f"{images:,.0f}", share, f"{images / record['hosts']:,.0f}"]


def tables(folder: str | Path) -> dict[str, str]:
    """Returns the tables of a folder's records in Markdown, between the marks of a README."""
    scaled = load(Path(folder) / "scaling")
    rows = {
        "fit": (HEAD, [row(record) for record in load(folder)]),
        "scaling": (SCALING_HEAD, scaling_rows(scaled)),
    }
    return {
        name: "\n".join([begin, *_markdown(*rows[name]), end])
        for name, (begin, end) in MARKS.items()
    }


def _markdown(head: Sequence[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return ["Not compiled yet."]
    return ["| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *rows)]


def main(folder: str, readme: str) -> None:
    """Replaces the tables in a README by those of the records in a folder."""
    path = Path(readme)
    page = path.read_text()
    for name, table in tables(folder).items():
        begin, end = MARKS[name]
        if page.count(begin) != 1 or page.count(end) != 1:
            raise UserError(f"{readme} needs one line '{begin}' and one line '{end}'.")
        before, rest = page.split(begin)
        page = before + table + rest.split(end)[1]
    files.write_text(path, page)


if __name__ == "__main__":
    main(*sys.argv[1:])
