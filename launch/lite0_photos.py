"""Puts a published EfficientNet-Lite0 to work on `photos`, and keeps the records.

Features as they are; fine-tuned on 10 % of the labels; as DeiT's and as Noisy Student's teacher;
errors on corruptions. One command after another; a second start goes on where the first one
stopped, as `jssl train` does.

    python launch/lite0_photos.py --weights=efficientnet-lite0-57934424.pth --runs=runs \\
        --records=configs/results [--seeds=0,1,2]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--records", type=Path, default=CONFIGS / "results")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    runs, records = given.runs, given.records
    seeds = [int(seed) for seed in given.seeds.split(",")]
    runs.mkdir(parents=True, exist_ok=True)
    lite0, teacher = runs / "lite0", runs / "lite0_teacher"
    if not (lite0 / "weights.json").exists():
        jssl("import", f"--weights={given.weights}", f"--workdir={lite0}")
    features(lite0, records / "lite0_features.json")
    train(f"lite0_photos.py:init={lite0},labels=1.0,size=32,epochs=4", teacher)
    keep(teacher / "result.json", records / "lite0_teacher_seed0.json")
    for seed in seeds:
        tune(given, seed)
    for seed in seeds:
        distil(given, seed)
    # To compare with: the small ResNet, from scratch with the same tiles.
    scratch = runs / "resnet8_photos_0"
    train("supervised_photos.py:labels=0.1,epochs=60", scratch)
    keep(scratch / "result.json", records / "resnet8_photos_seed0.json")
    corruptions(scratch, records / "resnet8_robustness_seed0.json")
    for seed in seeds:
        tuned = runs / f"lite0_photos_{seed}"
        corruptions(tuned, records / f"lite0_robustness_seed{seed}.json")
    for seed in seeds:  # the longest ones
        self_train(given, seed)


def tune(given, seed):
    tuned = given.runs / f"lite0_photos_{seed}"
    train(f"lite0_photos.py:init={given.runs / 'lite0'},seed={seed}", tuned)
    keep(tuned / "result.json", given.records / f"lite0_photos_seed{seed}.json")


def distil(given, seed):
    student = given.runs / f"deit_lite0_{seed}"
    train(f"deit_photos.py:teacher={given.runs / 'lite0_teacher'},seed={seed}", student)
    keep(student / "result.json", given.records / f"deit_lite0_seed{seed}.json")


def self_train(given, seed):
    noisy, lite0 = given.runs / f"noisy_student_lite0_{seed}", given.runs / "lite0"
    train(f"noisy_student_photos.py:lite0={lite0},seed={seed}", noisy)
    keep(noisy / "result.json", given.records / f"noisy_student_lite0_seed{seed}.json")


def corruptions(folder, copy):
    record = folder / "evaluation" / "robustness.json"
    if not record.exists():
        jssl("evaluate", f"--workdir={folder}", "--protocol=robustness")
    keep(record, copy)


def jssl(*args):
    print("jssl", *args, flush=True)
    subprocess.run([sys.executable, "-m", "jssl", *args], check=True)


def train(config, folder):
    """Trains, unless the record of the finished run is there."""
    if not (folder / "result.json").exists():
        jssl("train", f"--config={CONFIGS / config}", f"--workdir={folder}")


def keep(record, copy):
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record, copy)


def features(lite0, record):
    """Evaluates the features as they are, and writes them as a record of `jssl report`."""
    parts = [lite0 / "evaluation" / f"{name}.json" for name in ("knn", "softmax_regression")]
    if not all(part.exists() for part in parts):
        jssl("evaluate", f"--workdir={lite0}", "--source=photos",
             "--protocol=knn,softmax_regression")  # fmt: skip
    records = [json.loads(part.read_text()) for part in parts]
    weights = json.loads((lite0 / "weights.json").read_text())
    text = {
        "name": f"features of {weights['file']} at 224 px on photos, not trained here",
        "run_hash": weights["sha256"][:12],
        "seed": 0,
        "epochs": 0.0,
        "steps": 0,
        "rows": [row for part in records for row in part["rows"] if "trained" in row["numbers"]],
        "versions": records[0]["versions"],
    }
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
