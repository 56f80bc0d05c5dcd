"""Writes the table of records in launch/README.md: `python -m jssl.compile.table DIR README`."""

import sys
from pathlib import Path
from typing import Any

from jssl import files
from jssl.compile.command import load
from jssl.compile.hardware import GIB
from jssl.errors import UserError

BEGIN, END = "<!-- fit: begin -->", "<!-- fit: end -->"
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


def table(records: list[dict[str, Any]]) -> str:
    """Returns the records as a Markdown table between the marks that `main` replaces."""
    lines = [HEAD, ("---",) * len(HEAD), *map(row, records)]
    return "\n".join([BEGIN, *("| " + " | ".join(cells) + " |" for cells in lines), END])


def main(folder: str, readme: str) -> None:
    """Replaces the table in a README by that of the records in a folder."""
    path = Path(readme)
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise UserError(f"{readme} needs one line '{BEGIN}' and one line '{END}'.")
    before, rest = page.split(BEGIN)
    files.write_text(path, before + table(load(folder)) + rest.split(END)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
