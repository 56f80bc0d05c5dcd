"""Counts faults and what became of the runs that met them; minutes to an hour, so not a test.

    PYTHONPATH=.:tests python -m soak --kills=100 --output=launch/records/soak.json
    PYTHONPATH=.:tests python -m soak.table launch/records/soak.json launch/README.md

Tiny real runs of `jssl train` on this machine's CPU are killed, starved of disk, and given damaged
files. Required of each: in the end the state of the uninterrupted run bit for bit, or a clear error
and the last good checkpoint intact. What is mounted lies in a mount namespace of the soak's own.

A second start with the same `--output` goes on: what the record counts is not met again.
"""

import argparse
import collections
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMESPACES = (["--mount"], ["--mount", "--map-root-user"])


def in_own_namespace():
    """Starts the soak again where it may mount, and nobody else sees it."""
    for words in NAMESPACES:
        able = ["unshare", *words, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
        if subprocess.run(able, capture_output=True).returncode == 0:
            os.environ["SOAK_MAY_MOUNT"] = "1"
            os.execvp("unshare", ["unshare", *words, sys.executable, "-m", "soak", *sys.argv[1:]])
    os.environ["SOAK_MAY_MOUNT"] = "0"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--times", type=int, default=9, help="meet each other fault at most so often"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the names of the faults; kills is one")
    parser.add_argument("--output", default="", help="the .json to write")
    parser.add_argument("--folder", default="", help="where the runs lie, and stay; else temporary")
    return parser.parse_args()


class Count:
    """Faults by kind and outcome; written after each, so that what was reached stands."""

    def __init__(self, options, log):
        self.options, self.log, self.begun = options, log, time.monotonic()
        self.faults, self.starts = collections.OrderedDict(), []
        if options.output and Path(options.output).exists():
            record = json.loads(Path(options.output).read_text())
            self.faults.update(record["faults"])
            self.starts = record["starts"]

    def times(self, kind):
        """How often a fault was met, in this start and those before."""
        return self.faults.get(kind, {"run": 0})["run"]

    def __call__(self, kind, outcome, words="", expected="equal"):
        entry = self.faults.setdefault(
            kind, {"expected": expected, "run": 0, "outcomes": {}, "words": [], "failures": []}
        )
        entry["run"] += 1
        entry["outcomes"][outcome] = entry["outcomes"].get(outcome, 0) + 1
        if words and words not in (kept := entry["failures" if outcome == "failed" else "words"]):
            kept.append(words)
            del kept[3:]
        self.log(f"{outcome}: {kind} {words[:300]}")
        self.write()

    def write(self, *, finished=False):
        if not self.options.output:
            return
        from jssl.run import versions, workdir

        collected = versions.collect()
        start = {
            "date": datetime.date.today().isoformat(),
            "minutes": round((time.monotonic() - self.begun) / 60, 1),
            "seed": self.options.seed,
            **{key: collected[key] for key in ("git", "libraries", "python", "cpus")},
        }
        record = {
            "kills_asked": self.options.kills,
            "finished": finished,
            "starts": [*self.starts, start],
            "faults": self.faults,
        }
        workdir.write_json(Path(self.options.output), record)


def main():
    if "SOAK_MAY_MOUNT" not in os.environ:
        in_own_namespace()
    options = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from soak import faults, kills, runs

    begun = time.monotonic()

    def log(line):
        print(f"{time.monotonic() - begun:6.0f} s  {line}", file=sys.stderr, flush=True)

    folder = Path(options.folder or tempfile.mkdtemp(prefix="jssl-soak-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lab, count = runs.Lab(folder, random.Random(options.seed), log), Count(options, log)
    for name, (fault, times, expected) in faults.FAULTS.items():
        if options.only in name:
            left = min(times, options.times) - count.times(name)
            faults.meet(lab, name, fault, left, expected, count)
    if options.kills and options.only in "kills":
        kills.soak(lab, options.kills, count)
    finished = all(count.times(name) for name in faults.FAULTS)
    finished &= all(count.times(kind) for kind in kills.KINDS)
    count.write(finished=finished and not kills.deal(options.kills, count.times, lab.dice))
    if not options.folder:
        shutil.rmtree(folder)
    failed = sum(entry["outcomes"].get("failed", 0) for entry in count.faults.values())
    print(json.dumps({kind: entry["outcomes"] for kind, entry in count.faults.items()}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
