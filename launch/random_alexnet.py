"""Shows on `photos` that the last convolution of a random AlexNet is far above chance.

DeepCluster's observation: a multilayer perceptron on it reaches 12 % on ImageNet, chance is 0.1 %.
For each seed an AlexNet is drawn, `jssl evaluate --protocol=mlp,softmax_regression --feature=conv5`
runs on it and on raw pixels, and the records are kept. `jssl evaluate` needs a checkpoint, so one
step is trained; what it says of that checkpoint is left out of the records.

    python launch/random_alexnet.py --runs=runs --records=configs/results [--seeds=0,1,2]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PROTOCOLS = ("mlp", "softmax_regression")
SIZE = 64  # AlexNet's strides need 63 px


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--records", type=Path, default=CONFIGS / "results")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    for seed in given.seeds.split(","):
        folder = given.runs / f"random_alexnet_{seed}"
        judge(folder, seed)
        for name in PROTOCOLS:
            record = json.loads((folder / "evaluation" / f"{name}.json").read_text())
            keep(record, given.records / f"random_alexnet_{name}_seed{seed}.json")


def judge(folder, seed):
    if not (folder / "result.json").exists():
        jssl("train", f"--config={CONFIGS / 'supervised_photos.py'}:seed={seed}",
             f"--workdir={folder}", "--config.model.name=alexnet", "--config.model.stem=imagenet",
             "--config.model.width=1.0", "--config.model.sobel=False",
             f"--config.data.tile={SIZE}", f"--config.augment.size={SIZE}",
             "--config.max_steps=1", "--config.final.enabled=False",
             "--config.monitor.every_epochs=0")  # fmt: skip
    if not all((folder / "evaluation" / f"{name}.json").exists() for name in PROTOCOLS):
        jssl("evaluate", f"--workdir={folder}", f"--protocol={','.join(PROTOCOLS)}",
             "--feature=conv5", f"--seed={seed}")  # fmt: skip


def keep(record, copy):
    """Writes a record without the numbers of the checkpoint, which is of no training."""
    for row in record["rows"]:
        for kept in ("top1", "numbers"):
            row[kept] = {kind: x for kind, x in row[kept].items() if kind != "trained"}
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(record, indent=1) + "\n")


def jssl(*args):
    print("jssl", *args, flush=True)
    subprocess.run([sys.executable, "-m", "jssl", *args], check=True)


if __name__ == "__main__":
    main()
