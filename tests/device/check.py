"""Checks jssl on one GPU in eight minutes, and writes what it finds into one JSON record.

    bash tests/device/run.sh [--wheels=DIR] [--out=FILE]

The parts run one after the other in processes of their own, in order of value, each with a budget
of seconds; see `parts.py`. The record is written anew after each row, so that a stop at any time
leaves what was done. The status is 1 where something failed; what time did not allow is named.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 480.0  # seconds of everything
ENDING = 5.0  # of them, kept to end a part and to write the record
LEAST = 30.0  # a part that has less than this cannot compile anything
# Part: the seconds that it may take. The last gets all that the others left.
BUDGETS = {"golden": 180.0, "simclr": 90.0, "bench": LIMIT}
# Set for all parts, and for one: kernels that are chosen by timing them would compile for longer
# than they run here, except in `bench`, which times what a run would get.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
QUICK = "--xla_gpu_autotune_level=0"
FLAGS = {"golden": QUICK, "simclr": QUICK, "bench": ""}
# What --small runs, to try the script itself on a CPU.
SMALL = {"golden": "predictive,supervised", "simclr": "", "bench": "simclr"}


def rows_of(path):
    """Reads the whole lines that a part has written; one that is cut is left for later."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def told(values):
    """Returns (about the device, the part's own) of a part's lines."""
    device, part = {}, {"rows": []}
    for value in values:
        device |= value.pop("about", {})
        row = value.pop("row", None)
        part["rows"] += [row] if row else []
        part |= value
    return device, part


def plain(value):
    """Returns a value of JSON, which has no infinity and no NaN."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(path, record):
    """Writes the record; a stop in between leaves the one before."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(plain(record), indent=1) + "\n")
    beside.replace(path)


def run_part(name, record, args, seconds):
    """Runs a part, and keeps `record['parts'][name]` and the file as its rows come."""
    env = {**ENVIRONMENT, **os.environ}
    env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS[name]}".strip()
    if args.small:
        env["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")  # the CPU knows no flag of the GPU
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder, "rows"), Path(folder, "errors")
        command = [sys.executable, str(Path(__file__).with_name("parts.py")), name]
        command += [f"--rows={rows}", *([f"--golden={args.golden}"] if args.golden else [])]
        command += ["--small", f"--only={SMALL[name]}"] if args.small else []
        started, seen, status = time.monotonic(), -1, "running"
        with errors.open("w") as file:
            process = subprocess.Popen(command, env=env, stdout=file, stderr=file)
        try:
            while status == "running":
                code, late = process.poll(), time.monotonic() - started > seconds
                if code is not None or late:
                    status = "out of time" if code is None else "done" if code == 0 else "failed"
                lines = rows_of(rows)
                if len(lines) == seen and status == "running":
                    time.sleep(0.2)
                    continue
                seen = len(lines)
                device, part = told(lines)
                record.update(device)
                part |= {"budget": seconds, "seconds": round(time.monotonic() - started, 1)}
                record["parts"][name] = finished(part, status, code, errors)
                write(args.out, record)
        finally:
            process.kill()
            process.wait()


def finished(part, status, code, errors):
    """Returns a part with its status, and what it did not reach."""
    names = [row["name"] for row in part["rows"]]
    missing = [name for name in part.pop("planned", []) if name not in names]
    if status == "failed":
        last = errors.read_text(errors="replace").strip().splitlines()[-5:]
        text = "\n".join(last).replace(str(ROOT), "...")[-800:]
        part["error"] = f"The part ended with status {code}: {text}"
    elif any("error" in row for row in part["rows"]):
        part["error"] = "Failed: " + ", ".join(r["name"] for r in part["rows"] if "error" in r)
        status = status if status in ("running", "out of time") else "failed"
    elif status == "out of time" and not part["rows"]:
        last = errors.read_text(errors="replace").strip().splitlines()[-1:]
        part["error"] = f"No row came in {part['budget']:.0f} s. {''.join(last)[-300:]}".strip()
    return {"status": status, "not_reached": missing, **part}


def run(args):
    """Runs the parts and returns the record."""
    started = time.monotonic() - args.used
    record = {"kind": "device check", "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
              "small": args.small, "limit_seconds": args.limit, "parts": {}}  # fmt: skip
    for name, budget in BUDGETS.items():
        left = args.limit - ENDING - (time.monotonic() - started)
        if left < LEAST:
            text = f"{max(0, left):.0f} of {args.limit:g} seconds were left."
            record["parts"][name] = {"status": "skipped", "why": text}
        else:
            seconds = left if args.small else min(budget, left)
            print(f"{name}: at most {seconds:.0f} s", flush=True)
            run_part(name, record, args, seconds)
            if "Unknown flag" in record["parts"][name].get("error", ""):  # of a later XLA
                FLAGS[name] = ""
                run_part(name, record, args, seconds - record["parts"][name]["seconds"])
        print(f"{name}: {summary(record['parts'][name])}", flush=True)
        record["seconds"] = round(time.monotonic() - started, 1)
        write(args.out, record)
    record["failed"] = [name for name, part in record["parts"].items() if "error" in part]
    parts = record["parts"].values()
    record["complete"] = all(part.get("rows") and not part["not_reached"] for part in parts)
    write(args.out, record)
    return record


def summary(part):
    """Returns the line that is printed of a part."""
    text = f"{part['status']}, {len(part.get('rows', ()))} rows"
    if part.get("not_reached"):
        text += f", not reached: {', '.join(part['not_reached'])}"
    return f"{text}. {part.get('why', '')}{part.get('error', '')}".strip()


def stop(number, frame):
    """Ends this process at a signal as an error does, so that the part's process ends too."""
    raise SystemExit(128 + number)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("device_check.json"))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of everything")
    parser.add_argument("--golden", type=Path, help="folder of the golden values")
    parser.add_argument("--small", action="store_true", help="tries the script on a CPU")
    parser.add_argument("--used", type=float, default=0.0, help="of them, before this began")
    args = parser.parse_args(words)
    signal.signal(signal.SIGTERM, stop)
    record = run(args)
    print(f"{record['seconds']:.0f} s, the record is in {args.out}")
    return 1 if record["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
