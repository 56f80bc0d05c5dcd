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
        "estimate: ms a step, bound by", "hours", "compile s")  # fmt: skip


def row(found: dict[str, Any]) -> list[str]:
    """The cells of one record; what did not compile has no costs."""
    memory, batch = found["memory"], found["batch"]
    verdict = "fits" if memory["fits"] else "does not fit"
    cells = [
        f"`{found['config']}`",
        found["topology"],
        str(found["devices"]),
        f"{batch['per_device']} ({batch['global']})",
        f"{memory['total'] / GIB:.2f} of {memory['usable'] / GIB:.2f}",
        f"{verdict}, {abs(memory['spare']) / GIB:.2f} {'spare' if memory['fits'] else 'over'}",
    ]
    if "flops" not in found:
        return [*cells, "", "", "", "", "", f"{found['compile_seconds']:.0f}"]
    roof, least = found["roofline"], found["least"]["gradient_bytes"]
    sent = ", ".join(
        f"{kind} {c['bytes'] / 1e6:.1f}, {c['count']}" for kind, c in found["collectives"].items()
    )
    return [
        *cells,
        f"{found['flops'] / 1e12:.2f}",
        f"{found['bytes_accessed'] / 1e9:.1f}",
        f"{sent or 'none'} ({least / 1e6:.1f})",
        f"{1e3 * roof['step_seconds']:.1f}, {roof['bound']}",
        f"{roof['run_hours']:.1f}",
        f"{found['compile_seconds']:.0f}",
    ]


def table(records: list[dict[str, Any]]) -> str:
    """Markdown of the records, between the marks that `main` looks for."""
    lines = [HEAD, ("---",) * len(HEAD), *map(row, records)]
    return "\n".join([BEGIN, *("| " + " | ".join(cells) + " |" for cells in lines), END])


def main(folder: str, readme: str) -> None:
    """Replaces the table of a README by that of the records in a folder."""
    path = Path(readme)
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise UserError(f"{readme} needs one line '{BEGIN}' and one line '{END}'.")
    before, rest = page.split(BEGIN)
    files.write_text(path, before + table(load(folder)) + rest.split(END)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
