"""The table of faults in launch/README.md: `python -m soak.table RECORD README`."""

import json
import sys
from pathlib import Path

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
HEAD = ("fault", "met", "required", "outcome", "what the user reads")


def row(fault, entry):
    """The cells of one kind of fault."""
    outcomes = ", ".join(f"{count} x {what}" for what, count in entry["outcomes"].items())
    words = (entry["words"] or [""])[0]
    if entry["failures"]:  # the end of a log says most
        words = entry["failures"][0].strip().splitlines()[-1]
    return [fault, str(entry["run"]), entry["expected"], outcomes, cell(words)]


def cell(words):
    """One line of a table, not too long."""
    words = " ".join(words.split()).replace("|", "\\|").replace("WORKDIR", "DIR")
    return words if len(words) <= 220 else words[:217].rstrip() + "..."


def table(record):
    """Markdown of a record, between the marks that `main` looks for, and what it was made with."""
    faults = record["faults"]
    kills = sum(e["run"] for fault, e in faults.items() if fault.startswith(("KILL", "TERM")))
    failed = sum(e["outcomes"].get("failed", 0) for e in faults.values())
    starts = []
    for start in record["starts"]:
        packages = [f"{n} {start['libraries'][n]}" for n in ("jax", "orbax-checkpoint", "grain")]
        starts.append(
            f"{start['date']} (revision {start['git']}, {', '.join(packages)}, Python "
            f"{start['python']}, {start['cpus']} CPU cores, seed {start['seed']}, "
            f"{start['minutes']:.0f} minutes)"
        )
    said = (
        f"{kills} of {record['kills_asked']} kills and "
        f"{sum(e['run'] for e in faults.values()) - kills} other faults, {failed} failed"
        + ("" if record["finished"] else "; the soak was ended before it had met them all")
        + f". Run on {'; '.join(starts)}."
    )
    lines = [HEAD, ("---",) * len(HEAD), *(row(*item) for item in faults.items())]
    rows = ("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n".join([BEGIN, said, "", *rows, END])


def main(record, readme):
    """Replaces the table of a README by that of a record."""
    path = Path(readme)
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"{readme} needs one line '{BEGIN}' and one line '{END}'.")
    before, rest = page.split(BEGIN)
    path.write_text(before + table(json.loads(Path(record).read_text())) + rest.split(END)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
