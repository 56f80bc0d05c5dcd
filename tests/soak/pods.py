"""Two real processes against one, for a method of each family: `python -m soak.pods OUTPUT.json`.

A queue (MoCo), a bank that devices share (CMC), clusters (DeepCluster), stages with pseudo-labels
(Noisy Student) and a target network (BYOL). Both runs begin from one seed; their last states agree
within rounding. Needs PYTHONPATH=.:tests; a few minutes each.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from helpers import ROOT
from soak.runs import state

CASES = {"moco": "pmap", "byol": "pmap", "cmc": "shard_map", "deepcluster": "pmap",
         "noisy_student": "pmap"}  # fmt: skip
TOLERANCE = 1e-4  # of a leaf's largest value, or of 1: four devices sum in another order than one


def train(workdir: Path, method: str, launch: str, processes: int) -> float:
    """Runs a method's smoke config to its end; returns seconds."""
    words = [f"--config={ROOT}/configs/{method}_photos.py:smoke", f"--workdir={workdir}"]
    words += ["--config.monitor.every_epochs=0", "--config.final.enabled=False"]
    words += [f"--config.launch={launch}", "--config.optim.name=sgd", "--config.optim.lr=0.01"]
    command = [sys.executable, "-m", "jssl", "train", *words]
    if processes > 1:
        pod = [str(ROOT / "launch/local_pod"), f"--processes={processes}", "--devices=2", "--"]
        command = [sys.executable, *pod, *words]
    begun = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{method} with {processes} processes: {done.stderr.decode()[-2000:]}")
    return time.monotonic() - begun


def main(output: Path) -> None:
    """Runs every case that the record lacks, and writes the record after each."""
    record = json.loads(output.read_text()) if output.exists() else {}
    for method, launch in CASES.items():
        if method in record:
            continue
        with tempfile.TemporaryDirectory() as folder:
            one, two = Path(folder) / "one", Path(folder) / "two"
            seconds = [train(one, method, "jit", 1), train(two, method, launch, 2)]
            stages = sorted(p.parent.name for p in one.glob("*/checkpoints")) or [""]
            errors = {}
            for stage in stages:
                expected, given = state(one / stage), state(two / stage)
                assert expected.keys() == given.keys()
                for name, leaf in expected.items():
                    if leaf.dtype.kind == "f":
                        size = max(1.0, float(np.max(np.abs(leaf), initial=0.0)))
                        error = float(np.max(np.abs(leaf - given[name]), initial=0.0)) / size
                    else:
                        error = float(np.any(leaf != given[name]))
                    errors[f"{stage}/{name}".strip("/")] = error
        worst = max(errors, key=lambda name: errors[name])
        record[method] = {
            "launch": f"{launch}, 2 processes of 2 devices, against jit on one",
            "stages": stages,
            "largest_error": errors[worst],
            "at": worst,
            "equal": errors[worst] <= TOLERANCE,
            "seconds": [round(s, 1) for s in seconds],
        }
        output.write_text(json.dumps(record, indent=1) + "\n")
        print(method, json.dumps(record[method]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
