"""The table of docs/random_features.md, made from the records in configs/results."""

import json
from pathlib import Path

from jssl.run.results import spread

RESULTS = Path(__file__).parents[1] / "configs" / "results"
BEGIN, END = "<!-- random_alexnet: begin -->", "<!-- random_alexnet: end -->"
LINES = (
    ("conv5 of a random AlexNet", "mlp", "untrained"),
    ("raw pixels, averaged to 32 px", "mlp", "raw pixels"),
    ("conv5 of a random AlexNet", "softmax_regression", "untrained"),
    ("raw pixels, averaged to 32 px", "softmax_regression", "raw pixels"),
)


def text():
    """The table in Markdown: a line per feature and protocol, over the seeds."""
    mlp = ""
    lines = ["| features | protocol | top-1 % | mean ± sd |", "|---|---|---|---|"]
    for features, name, kind in LINES:
        paths = sorted(RESULTS.glob(f"random_alexnet_{name}_seed?.json"))
        records = [json.loads(path.read_text()) for path in paths]
        values = [100 * record["rows"][0]["top1"][kind] for record in records]
        each = ", ".join(f"{value:.1f}" for value in values)
        mlp = records[0]["rows"][0]["protocol"] if name == "mlp" else mlp
        lines.append(f"| {features} | `{name}` | {each} | {spread(values)} |")
    seeds = ", ".join(str(record["run_seed"]) for record in records)
    lines += ["", f"Seeds {seeds}. `mlp`: {mlp}."]
    return "\n".join(lines) + "\n"


def page(old):
    """The page with its table made anew."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n{text()}{END}{rest.split(END)[1]}"
