"""Times jssl and a peer in turn, each in its process, and records both.

The peer is the same script run by another interpreter with `--serve=NAME`: it works while jssl
waits, and waits while jssl works. What loads the machine loads both, so that the ratio of a round
can be read where seconds cannot.
"""

import argparse
import importlib.metadata
import json
import re
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
        self.versions = self._answer()["versions"]

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


def serve(make, warm_up=3, packages=()):
    """The peer's side: makes the work, warms it up, and runs it for every line that is read.

    The first line that it prints names the versions of `packages`.
    """
    try:
        run = make()
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable} has no module '{error.name}'.")
    for _ in range(warm_up):
        run()
    print(json.dumps({"versions": versions(packages)}), flush=True)
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


def versions(packages):
    """The installed version of each package."""
    return {name: importlib.metadata.version(name) for name in packages}


def peak_memory():
    """Bytes of the largest resident set of this process so far.

    Of Linux's two counts this is the one that begins anew with the program: `ru_maxrss` of a
    process contains that of the process which started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


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


def command(doc, script, works, *, peer, packages):
    """The command line of a script: every work alone in its two processes, a row for each.

    Args:
        doc: the description of the script.
        script: its path.
        works: {name: (make, make_peer)}, both without arguments; each returns a function that does
            the work once and waits for its result.
        peer: the peer's name in the table.
        packages: what of the peer's is named with its version.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help=f"a Python that has {', '.join(packages)}")
    parser.add_argument("--record", help="the JSON file that gets a row for each work")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", choices=works, help="may be given several times")
    parser.add_argument("--serve", choices=works, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(works[args.serve][1], packages=packages)
        return
    if not args.peer_python:
        parser.error(f"give --peer-python, a Python that has {', '.join(packages)}")
    names = args.only or list(works)
    if len(names) > 1:  # each alone, so that a peak of memory is that of one work
        shared = [f"--peer-python={args.peer_python}", f"--rounds={args.rounds}"]
        shared += [f"--record={args.record}"] if args.record else []
        for name in names:
            done = subprocess.run([sys.executable, script, f"--only={name}", *shared])
            if done.returncode:
                sys.exit(done.returncode)
        return
    (name,) = names
    with Peer(args.peer_python, script, name) as other:
        seconds = in_turn(works[name][0](), other, rounds=args.rounds)
        row = {
            "peer": peer,
            "seconds": seconds,
            "peak_bytes": {"jssl": peak_memory(), "peer": other.peak_memory()},
            "versions": {**versions(["jax"]), **other.versions},
        }
    show(name, row)
    if args.record:
        write(args.record, name, row)
