"""Runs the comparisons of docs/ablations.md on `photos`, and keeps their records.

Each study is a set of runs that differ in one setting, for each seed. The record of a study,
`ablation_NAME.json`, is written again after every run; a second start goes on where the first one
stopped. The pages are made from the records.

    python launch/ablations.py --study=byol --runs=runs --records=configs/results [--seeds=0,1,2]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from ablation_studies import STUDIES

# The tables show kNN and own classifiers alone: the linear probe is cut to an epoch and left out.
SHORT = "--config.final.linear_epochs=1"
CUT = "softmax_regression"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, choices=sorted(STUDIES))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--records", type=Path, default=CONFIGS / "results")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="rows, with commas; default: all")
    given = parser.parse_args()
    study = STUDIES[given.study]
    wanted = [row for row in given.only.split(",") if row]
    if unknown := sorted(set(wanted) - set(study.rows)):
        parser.error(f"unknown rows {unknown}: expected some of {sorted(study.rows)}")
    path = given.records / f"ablation_{given.study}.json"
    record = json.loads(path.read_text()) if path.exists() else {"study": given.study, "runs": []}
    for seed in (int(seed) for seed in given.seeds.split(",")):
        folder = given.runs / f"ablation_{given.study}_{seed}"
        study.prepare(folder)
        for row, args in study.rows.items():
            done = any(run["row"] == row and run["seed"] == seed for run in record["runs"])
            if done or (wanted and row not in wanted):
                continue
            record["runs"].append({"row": row, "seed": seed, **run(study, args, folder, row, seed)})
            write(path, record)


def run(study, args, folder, row, seed):
    """Trains and evaluates one row, and returns its part of the record."""
    workdir = folder / row
    given = [arg.format(seed=seed, folder=folder) for arg in args]
    switches = [f"--config={CONFIGS / given[0]}", SHORT, *given[1:]]
    jssl(workdir, "train", f"--workdir={workdir}", *switches)  # goes on, or has nothing to do
    stages = sorted(p for p in workdir.glob("[0-9]*_*") if (p / "metrics.jsonl").exists())
    result = read(workdir / "result.json")
    numbers = {"": numbers_of(result["rows"])}
    curves = {}
    for part in stages or [workdir]:
        name = part.name if stages else ""
        for text in study.protocols:
            protocol, *flags = text.split()
            record = part / "evaluation" / f"{protocol}.json"
            if not record.exists():
                jssl(workdir, "evaluate", f"--workdir={part}", f"--protocol={protocol}", *flags)
            numbers.setdefault(name, {})[text] = read(record)["rows"]
        curves[name] = curves_of(part / "metrics.jsonl", study.curves)
    return {
        "command": ["train", *(arg.replace("{folder}", "FOLDER") for arg in args)],
        "minutes": round(result["minutes"], 2),
        **teacher_of(folder, given),
        "numbers": numbers,
        "curves": curves,
        "warnings": warnings_of(workdir),
        "versions": read(workdir / "versions.json"),
    }


def teacher_of(folder, args):
    """The accuracy of the teacher, for a row that starts from that of the generations."""
    if not any(f"teacher={folder}/generations/1_teacher" in arg for arg in args):
        return {}
    rows = read(folder / "generations" / "result.json")["rows"]
    (teacher,) = (row for row in rows if row["probe"] == "1_teacher")
    return {"teacher_top1": teacher["numbers"]["trained"]["top1"]}


def numbers_of(rows):
    """The numbers of each probe of a table: of its metrics the first, top-1."""
    numbers = {}
    for row in rows:
        if row["probe"] != CUT:
            numbers.setdefault(row["probe"], row["numbers"])
    return numbers


def read(path):
    """Reads a JSON file; a run whose table is switched off has no result."""
    if path.name == "result.json" and not path.exists():
        return {"rows": [], "minutes": 0.0}
    return json.loads(path.read_text())


def curves_of(path, names):
    """The logged values of some metrics: {metric: [[step, value], ...]}."""
    curves = {name: [] for name in names}
    for line in path.read_text().splitlines():
        scalars = json.loads(line)
        for name in names:
            if name in scalars:
                curves[name].append([scalars["step"], round(scalars[name], 5)])
    return {name: points for name, points in curves.items() if points}


def warnings_of(workdir):
    """The lines of the run's log that begin with WARNING, each once."""
    lines = workdir.with_suffix(".log").read_text().splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if "WARNING" in line))


def jssl(workdir, *args):
    print("jssl", *args, flush=True)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("a") as log:
        subprocess.run([sys.executable, "-m", "jssl", *args], check=True, stdout=log, stderr=log)


def write(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)


if __name__ == "__main__":
    main()
