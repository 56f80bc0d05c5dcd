"""The parts of `check.py`, each in a process of its own that tells its rows as they come.

A part that hangs, runs out of memory or ends in the driver takes no other part with it.
"""

import argparse
import concurrent.futures
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from device.bench import bench, memory, send_row  # noqa: E402
from helpers import get_config, small_config, three_steps  # noqa: E402

from jssl import methods  # noqa: E402
from jssl.run import versions  # noqa: E402

# The methods that a stop must not leave out come first; the others follow in their order.
FIRST = ("simclr", "moco", "byol", "moco_v3", "vicreg", "supervised")
# Relative differences that are allowed in the three steps. The first step sees float32 sums in
# another order and a GPU's algorithms of convolution (on the CPU another order moves it by less
# than 1e-6; the tests of the CPU allow 2e-3). The later ones see parameters after an update by
# Adam, which divides small gradients by their own size, so that the rounding of a gradient near 0
# becomes a change as large as the learning rate.
RTOL = (2e-3, 1e-2, 3e-2)
# Differences of a constant and a loss have the rounding of the loss.
DERIVED = re.compile(r"explained|mi_bound")
# Losses and gradients; near 0 they are compared as if they were this large.
LEAST = 1e-2
# Shares and counts of examples move by whole examples where two of them nearly tie: two may.
COUNTED = re.compile(r"top1|agreement|accuracy|share|used|positive|proposals|perplexity")


def about():
    """Returns versions, device and memory."""
    device = jax.devices()[0]
    return {"platform": device.platform, "device": device.device_kind, **versions.collect()}


def compare(found, expected):
    """Compares the metrics of some steps with their golden values.

    Returns:
        The metric that is furthest from its value, as a share of what is allowed; and the largest
        relative difference of each step, without counts: by them tolerances can be made smaller.
    """
    worst, relative = {"share": -1.0}, []
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.keys() != b.keys():
            raise ValueError(f"Found the metrics {sorted(a)}: expected {sorted(b)}.")
        relative.append(0.0)
        for key, value in b.items():
            size = max(abs(value), 1 + abs(b["loss"]) if DERIVED.search(key) else LEAST)
            difference, allowed = abs(a[key] - value), RTOL[number] * size
            if COUNTED.search(key):  # a share of 16 or more, or a number of some
                allowed += max(2 / 16, 0.1 * abs(value))
            else:
                relative[-1] = max(relative[-1], difference / size)
            share = difference / allowed if np.isfinite(difference) else float("inf")
            if share > worst["share"]:
                worst = {"share": share, "step": number + 1, "metric": key, "found": a[key],
                         "expected": value, "allowed": allowed}  # fmt: skip
    return worst, relative


def golden(args, send):
    """Losses and train steps of every method against those of the CPU, in float32."""
    jax.config.update("jax_default_matmul_precision", "highest")  # TF32 would keep 3 digits
    names = sorted(methods.names(), key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST))
    names = args.only.split(",") if args.only else names
    send({"planned": names, "rtol": RTOL, "matmul_precision": "highest"})
    configs = {name: small_config(name) for name in names}  # loading them is not for threads

    def one(name):
        started = time.monotonic()
        expected = json.loads((args.golden / f"{name}.json").read_text())
        worst, relative = compare(three_steps(configs[name]), expected)
        seconds = round(time.monotonic() - started, 1)
        row = {"seconds": seconds, "worst": worst, "relative": relative}
        if worst["share"] > 1:
            row["error"] = (
                f"Step {worst['step']} gives {worst['metric']}={worst['found']:.6g}: expected "
                f"{worst['expected']:.6g} within {worst['allowed']:.2g}."
            )
        return row

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(one, name): name for name in names}
        for future in concurrent.futures.as_completed(futures):
            send_row(send, futures[future], future.result)


def simclr(args, send):
    """A short run of SimCLR on the photographs, with the accuracy of its kNN."""
    from jssl.run import train

    config = get_config("simclr_photos", "smoke" if args.small else "")
    config.launch = "jit"
    config.data.workers = 0  # no process is left behind where this one is killed
    if args.small:
        config.max_steps = 2
    send({"planned": ["simclr_photos"]})
    seen, started = [], time.monotonic()

    def on_step(step, values):
        seen.append((step, time.monotonic() - started, values))

    def run():
        with tempfile.TemporaryDirectory() as folder:
            train.train(config, Path(folder) / "run", on_step=on_step)
        knn = [(step, values["knn_top1"]) for step, _, values in seen if "knn_top1" in values]
        steps = [(step, at, values["loss"]) for step, at, values in seen if "loss" in values]
        row = {
            "seconds": round(time.monotonic() - started, 1),
            "first_step_seconds": round(steps[0][1], 1),
            "steps": steps[-1][0],
            "batch": config.batch_size,
            "first_loss": steps[0][2],
            "last_loss": steps[-1][2],
            "knn_top1": dict(knn),
        }
        # Of three runs on the CPU the table says 0.83 to 0.85, and 0.66 to 0.70 untrained.
        first, last = knn[0][1], knn[-1][1]
        if not args.small and not last >= first + 0.05:
            row["error"] = (
                f"kNN's accuracy is {last:.3f}, and {first:.3f} before training: expected at least "
                "0.05 more."
            )
        return row

    send_row(send, "simclr_photos", run)


PARTS = {"golden": golden, "simclr": simclr, "bench": bench}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rows", type=Path, required=True, help="a line of JSON for each row")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden" / "steps")
    parser.add_argument("--only", default="", help="names, joined by commas")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    with args.rows.open("a") as file:

        def send(value):
            file.write(json.dumps(value) + "\n")
            file.flush()

        found = about()
        send({"about": found})
        if not args.small and found["platform"] != "gpu":
            sys.exit(f"The check is of a GPU, and JAX found a {found['platform']}. Type --small.")
        PARTS[args.part](args, send)
        send(memory())


if __name__ == "__main__":
    main()
