"""The table of docs/dense.md, made from the records in configs/results."""

import json
from pathlib import Path

from jssl.run.results import spread

RESULTS = Path(__file__).parents[1] / "configs" / "results"
BEGIN, END = "<!-- cutouts: begin -->", "<!-- cutouts: end -->"


def text():
    """The table in Markdown: a line per metric and length, of both networks over the seeds."""
    lines = ["| metric | updates | pre-trained | mean ± sd | untrained | mean ± sd |"]
    lines.append("|---|---|---|---|---|---|")
    for name in ("detection", "segmentation"):
        for updates in (100, 250):
            path = RESULTS / f"dense_cutouts_{name}_{updates}.json"
            for row in json.loads(path.read_text())["rows"]:
                cells = []
                for kind in ("trained", "untrained"):
                    values = [100 * value for value in row["numbers"][kind]["by_seed"]]
                    cells += [", ".join(f"{value:.1f}" for value in values), spread(values)]
                assert f"{updates} updates" in row["protocol"]
                lines.append(f"| {row['metric']} | {updates} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(old):
    """The page with its table made anew."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n{text()}{END}{rest.split(END)[1]}"
