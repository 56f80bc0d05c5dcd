"""Times jssl and a peer in turn, each in its process, and records both.

The peer is the same script run by another interpreter with `--serve=NAME`: it works while jssl
waits, and waits while jssl works. What loads the machine loads both, so that the ratio of a round
can be read where seconds cannot.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


class MissingPeerError(SystemExit):
    """The interpreter of the peer, or a package in it, is missing."""


class Peer:
    """A process of another interpreter that runs a piece of work whenever it is asked to."""

    def __init__(self, python, script, name, *arguments):
        command = [python, str(script), f"--serve={name}", *map(str, arguments)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise MissingPeerError(f"The peer's interpreter: {error}.") from None
        self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise MissingPeerError(
                f"'{self._process.args[0]}' ended with status {self._process.wait()}: what it "
                "lacks stands above."
            )
        return json.loads(line)

    def run(self):
        """Seconds of one run."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def peak_memory(self):
        """Bytes of the largest resident set so far."""
        self._process.stdin.write("memory\n")
        self._process.stdin.flush()
        return self._answer()["bytes"]


class Here:
    """A peer in this process."""

    def __init__(self, run):
        self._run = run

    def run(self):
        """Seconds of one run."""
        return timed(self._run)


def serve(make, warm_up=3):
    """The peer's side: makes the work, warms it up, and runs it for every line that is read."""
    try:
        run = make()
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable} has no module '{error.name}'.")
    for _ in range(warm_up):
        run()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line == "memory\n":
            print(json.dumps({"bytes": peak_memory()}), flush=True)
            continue
        print(json.dumps({"seconds": timed(run)}), flush=True)


def timed(run):
    """Seconds of a run that waits for its result."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory():
    """Bytes of the largest resident set of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_turn(run, peer, *, rounds, warm_up=3):
    """Seconds of both in each round, after a warm-up: {"jssl": [...], "peer": [...]}."""
    for _ in range(warm_up):
        run()
    seconds = {"jssl": [], "peer": []}
    for _ in range(rounds):
        seconds["jssl"].append(timed(run))
        seconds["peer"].append(peer.run())
    return seconds


def ratios(seconds):
    """Peer's seconds over jssl's in each round: above 1 jssl is quicker."""
    return [b / a for a, b in zip(seconds["jssl"], seconds["peer"], strict=True)]


def versions(python, *packages):
    """Versions of packages of the peer's interpreter."""
    code = f"import importlib.metadata as m; print(*[m.version(n) for n in {packages!r}])"
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split()
    return dict(zip(packages, printed, strict=False))


def write(path, work, row):
    """Puts a row into a record under its name; the other rows stay."""
    path = Path(path)
    record = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    record["rows"][work] = row
    path.write_text(json.dumps(record, indent=1) + "\n")


def show(work, row):
    """Prints a row as it stands in docs/benchmarks.md."""
    ratio = ratios(row["seconds"])
    mine, other = (statistics.median(row["seconds"][side]) for side in ("jssl", "peer"))
    print(
        f"{work}: jssl {mine:.4f} s, {row['peer']} {other:.4f} s, ratio {min(ratio):.2f} .. "
        f"{statistics.median(ratio):.2f} .. {max(ratio):.2f} in {len(ratio)} rounds",
        flush=True,
    )
