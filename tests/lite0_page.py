"""The tables of docs/lite0.md, made from the records in configs/results."""

import json
from pathlib import Path

import numpy as np

from jssl.run.results import probe_name, spread

RESULTS = Path(__file__).parents[1] / "configs" / "results"
BEGIN, END = "<!-- lite0: begin -->", "<!-- lite0: end -->"
OWN, KNN, SOFTMAX = "own classifier", "kNN", "softmax_regression"
# (use, records, probe); a pair of lines is what Lite0 gives, and what jssl trained.
LINES = (
    ("Lite0's features as they are, 224 px", "lite0_features", KNN),
    ("ResNet-8, supervised, all labels, 32 px", "supervised_photos", KNN),
    ("Lite0's features as they are, 224 px", "lite0_features", SOFTMAX),
    ("ResNet-8, supervised, all labels, 32 px", "supervised_photos", SOFTMAX),
    ("Lite0 fine-tuned, 10 % of the labels, 64 px", "lite0_photos", OWN),
    ("ViT after BEiT, 10 % of the labels", "beit_finetune_photos", OWN),
    ("ViT from scratch, 10 % of the labels", "beit_finetune_photos_scratch", OWN),
    ("ResNet-8 from scratch, 10 % of the labels", "resnet8_photos", OWN),
    ("Lite0 fine-tuned, all labels, 32 px: DeiT's teacher", "lite0_teacher", OWN),
    ("DeiT, hard distillation from it", "deit_lite0", OWN),
    ("DeiT, hard distillation from ResNet-8", "deit_photos_hard", OWN),
    ("DeiT, no teacher", "deit_photos_plain", OWN),
    ("Noisy Student's teacher: Lite0, 5 % of the labels", "noisy_student_lite0", "1_teacher"),
    ("its student, ResNet-8, 32 px", "noisy_student_lite0", "3_student"),
    ("Noisy Student's teacher: ResNet-8, 5 % of the labels", "noisy_student_photos", "1_teacher"),
    ("its student, ResNet-8, 32 px", "noisy_student_photos", "3_student"),
)  # fmt: skip
CURVES = (("Lite0", "lite0_robustness"), ("ResNet-8", "resnet8_robustness"))


def _records(name):
    paths = sorted([*RESULTS.glob(f"{name}.json"), *RESULTS.glob(f"{name}_seed?.json")])
    return [json.loads(path.read_text()) for path in paths]


def text():
    """Both tables in Markdown: top-1 of each use, and errors on corruptions by severity.

    A run that has no record yet has no line.
    """
    lines = ["| network | top-1 of | % | seeds |", "|---|---|---|---|"]
    for use, name, probe in LINES:
        if not (found := _records(name)):
            continue
        rows = [row for record in found for row in record["rows"] if probe_name(row) == probe]
        rows = [row for row in rows if "top1" in row]  # own classifiers have other metrics too
        values = [100 * row["top1"]["trained"] for row in rows]
        seeds = ", ".join(str(record["seed"]) for record in found)
        lines.append(f"| {use} | {probe} | {spread(values)} | {seeds} |")
    curves = {use: records for use, name in CURVES if (records := _records(name))}
    lines += ["", "| top-1 error %, severity 1 to 5 | " + " | ".join(curves) + " |",
              "|---|" + "---|" * len(curves)]  # fmt: skip
    clean = {use: [100 * _value(r, 0) for r in records] for use, records in curves.items()}
    lines.append("| clean | " + " | ".join(spread(values) for values in clean.values()) + " |")
    for kind in curves["Lite0"][0]["rows"][0]["errors"]:
        cells = []
        for records in curves.values():
            errors = np.mean([record["rows"][0]["errors"][kind] for record in records], axis=0)
            cells.append(" ".join(f"{100 * error:.0f}" for error in errors))
        lines.append(f"| {kind.removeprefix('regenerated/')} | " + " | ".join(cells) + " |")
    means = [spread([100 * _value(r, 1) for r in records]) for records in curves.values()]
    lines.append("| mean of all | " + " | ".join(means) + " |")
    seeds = [", ".join(str(r["run_seed"]) for r in records) for records in curves.values()]
    lines.append("| seeds | " + " | ".join(seeds) + " |")
    return "\n".join(lines) + "\n"


def _value(record, row):
    return record["rows"][row]["numbers"]["trained"]["value"]


def page(old):
    """The page with its tables made anew."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n{text()}{END}{rest.split(END)[1]}"
