"""Times the start of a run: from the process to the end of its first step, cold and cached.

    python tests/benchmarks/bench_start.py [--rounds 3] [--record docs/benchmarks/start.json]

`jssl train` of SimCLR with a ResNet-18, 32 px, batch 32, monitor and evaluation off, in a process
of its own: with an empty compilation cache, and again with the one that the first run filled. The
parts end with lines of the run: "compiling ..." after the imports and the first state, "compiled
in" after tracing and compiling, "step 1" after the first step. `jssl --help` is timed as well.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIGNS = {"imports and first state": "compiling", "trace and compile": "compiled in",
         "first batch and step": "step 1/"}  # fmt: skip
FLAGS = (
    "--config=simclr_photos",
    "--config.model.name=resnet18",
    "--config.model.stage_sizes=()",
    "--config.model.width=1.0",
    "--config.batch_size=32",
    "--config.max_steps=1",
    "--config.monitor.every_epochs=0",
    "--config.final.enabled=False",
)


def start(folder, name):
    """Seconds of each part of a run, from the start of its process."""
    command = [sys.executable, "-u", "-m", "jssl", "train", *FLAGS, f"--workdir={folder / name}"]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    begun, parts, left = time.perf_counter(), {}, dict(SIGNS)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            part = next(iter(left), None)
            if part and line.startswith(left[part]):
                parts[part] = time.perf_counter() - begun - sum(parts.values())
                del left[part]
    if process.returncode or left:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}, no line {left}.")
    return parts


def help_seconds():
    """CPU seconds of `jssl --help`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "jssl", "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    rounds = {"cold": [], "cached": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind, times in rounds.items():
                times.append(start(Path(folder), kind))
                print(kind, {part: round(s, 2) for part, s in times[-1].items()}, flush=True)
    record = {
        "rounds": rounds,
        "help_cpu_seconds": statistics.median(help_seconds() for _ in range(args.rounds)),
        "versions": {"jax": importlib.metadata.version("jax")},
    }
    print(f"jssl --help: {record['help_cpu_seconds']:.2f} s of CPU")
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
