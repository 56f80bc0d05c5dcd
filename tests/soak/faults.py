"""Faults of disk, files, data, clock and pipes; each ends in the same bits or in a clear error."""

import os
import shutil
import subprocess
import time

import numpy as np
from soak import kills, pictures, runs

HALF = runs.STEPS // 2
EQUAL, ERROR = "equal", "clear error, last good checkpoint intact; then equal"


def meet(lab, name, function, times, expected, count):
    """Meets one fault so many times, and counts what became of it."""
    for number in range(times):
        place = lab.place("fault")
        try:
            words = function(lab, place, number) or ""
            outcome = expected
        except NotRun as error:
            outcome, words = "not run", str(error)
        except (runs.Failed, AssertionError) as error:
            outcome, words = "failed", f"{error}"[:800]
        words = words.replace(str(place), "WORKDIR").replace(str(lab.folder), "FOLDER")
        count(name, outcome, words, expected)


class NotRun(Exception):  # noqa: N818 (an outcome of the soak)
    """This machine does not let the soak make the fault."""


def half(lab, place):
    """A copy of a run of one process that stopped half-way; its checkpoints are two."""
    template = lab.folder / "half"
    if not template.exists():
        lab.end(lab.start(template, f"--config.max_steps={HALF}"), template)
    shutil.copytree(template, place)
    return place


def files_of(place, step):
    folder = place / "checkpoints" / str(step)
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent != folder)


def falls_back(lab, place):
    """The next start says that the newest is damaged, and the run ends as it should."""
    lab.whole("one process")
    said = lab.finish(place, "one process")
    assert f"resumed at step {HALF - 2}" in said, said[-500:]
    return runs.last_words(said, "WARNING ")


def truncated(lab, place, number):
    path = lab.dice.choice([p for p in files_of(half(lab, place), HALF) if p.stat().st_size])
    os.truncate(path, lab.dice.randrange(path.stat().st_size))
    return falls_back(lab, place)


def flipped(lab, place, number):
    found = files_of(half(lab, place), HALF)
    # Every other flip in the arrays themselves, which are most of the bytes.
    path = max(found, key=lambda p: p.stat().st_size) if number % 2 else lab.dice.choice(found)
    data = bytearray(path.read_bytes())
    data[lab.dice.randrange(len(data))] ^= 1 << lab.dice.randrange(8)
    path.write_bytes(data)
    return falls_back(lab, place)


def all_damaged(lab, place, number):
    half(lab, place)
    saved = {}
    for step in (HALF - 2, HALF):
        path = lab.dice.choice([p for p in files_of(place, step) if p.stat().st_size])
        saved[path] = path.read_bytes()
        os.truncate(path, len(saved[path]) // 2)
    words = runs.last_words(lab.end(lab.start(place), place, status=2))
    assert (place / "checkpoints" / str(HALF)).exists() and not (place / "damaged").exists()
    for path, data in saved.items():
        path.write_bytes(data)
    lab.whole("one process")
    lab.finish(place, "one process")
    return words


def mount(*words):
    if os.environ["SOAK_MAY_MOUNT"] != "1":
        raise NotRun("no right to mount")
    subprocess.run(["mount", *map(str, words)], check=True)


def disk_full(lab, place, number):
    """A file system that is full during the third save or so; then it has room again."""
    disk = place.parent / f"{place.name}-disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", f"size={lab.dice.randrange(900, 1500)}k", "tmpfs", disk)
    run = disk / "run"
    lab.whole("one process")
    try:
        said = said_of(lab, run, place, status=2)
        words = runs.last_words(said).replace(str(run), "WORKDIR")
        step = runs.intact(run)
        assert f"is of step {step}" in words, words
        mount("-o", "remount,size=64m", disk)
        assert f"resumed at step {step}" in said_of(lab, run, place, status=0)
        lab.equal(run, "one process")
    finally:
        subprocess.run(["umount", disk])
    return words


def said_of(lab, run, place, status):
    """Runs with the log elsewhere than beside the workdir, which lies on the full disk."""
    with open(lab.log_of(place), "w") as log:
        process = lab.start(run, stdout=log, stderr=log)
    return lab.end(process, place, status)


def full_log(lab, place, number):
    """Only the disk of the log is full: every write to standard output and error fails."""
    lab.whole("one process")
    with open("/dev/full", "w") as log:
        lab.end(lab.start(place, stdout=log, stderr=log), place)
    lab.equal(place, "one process")


def read_only(lab, place, number):
    half(lab, place)
    mount("--bind", place, place)
    lab.whole("one process")
    try:
        mount("-o", "remount,bind,ro", place)
        words = runs.last_words(lab.end(lab.start(place), place, status=2))
        assert runs.intact(place) == HALF
    finally:
        subprocess.run(["umount", place])
    lab.finish(place, "one process")
    return words


CLOCK = """
import time
begun, true = time.monotonic(), {name: getattr(time, name) for name in ("time", "time_ns")}
def back(name, unit):
    # Every half a second the clock is set back by an hour.
    return lambda: true[name]() - int((time.monotonic() - begun) / 0.5) * 3600 * unit
time.time, time.time_ns = back("time", 1), back("time_ns", 10**9)
"""


def clock(lab, place, number):
    """Python's time.time and time_ns run backwards; and all files are from tomorrow."""
    lab.whole("one process")
    shim = lab.folder / "clock"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(CLOCK)
    env = {"PYTHONPATH": f"{shim}:{os.environ.get('PYTHONPATH', '')}"}
    half(lab, place)
    tomorrow = time.time() + 86400
    for path in [place, *place.rglob("*")]:
        os.utime(path, (tomorrow, tomorrow))
    lab.finish(place, "one process", env=env)
    times = [row["time"] for row in runs.rows(place)]
    assert np.diff(times).min() < -3000, "the clock did not go backwards"


def silent_reader(lab, place, number):
    """Both streams into one pipe that is full before the run starts, and that nobody reads."""
    lab.whole("one process")
    read, write = os.pipe()
    os.set_blocking(write, False)
    held = 0
    try:
        while True:
            held += os.write(write, b"." * 512)
    except BlockingIOError:
        os.set_blocking(write, True)
    process = lab.start(place, stdout=write, stderr=write)
    os.close(write)
    try:
        lab.end(process, place)
        assert os.read(read, 1 << 20) == b"." * held, "the pipe was not full all the time"
    finally:
        os.close(read)
    lab.equal(place, "one process")


def closed_reader(lab, place, number):
    """The reader of both streams closes its end after the first words."""
    lab.whole("one process")
    process = lab.start(place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.read(200)
    process.stdout.close()
    lab.end(process, place)
    lab.equal(place, "one process")


def fewer_processes(lab, place, number):
    """Four processes, then two, then one; the newest checkpoint of the four is damaged between."""
    lab.whole("one process")
    at = []
    for processes, devices in ((4, 1), (2, 2)):
        before, process = runs.newest(place), lab.start(place, pod=processes, devices=devices)
        begun = time.monotonic()
        while runs.newest(place) < before + 4 and process.poll() is None:
            assert time.monotonic() - begun < runs.PATIENCE, "no save"
            time.sleep(0.05)
        process.terminate()
        said = lab.end(process, place)
        kills.end_family(kills.family_of(process.pid))
        if at:
            assert f"the checkpoint of step {at[0]} is damaged" in said, said[-600:]
        at.append(runs.intact(place))
        if len(at) == 1:
            parts = [p for p in files_of(place, at[0]) if "ocdbt.process_3" in str(p)]
            path = max(parts, key=lambda p: p.stat().st_size)
            os.truncate(path, path.stat().st_size // 2)
    said = lab.end(lab.start(place), place)
    assert f"resumed at step {at[-1]}" in said
    assert [row["step"] for row in runs.rows(place)] == list(range(1, runs.STEPS + 1))
    # Sums over other numbers of devices are not the same bits.
    found, expected = runs.state(place), runs.state(lab.whole("one process")[0])
    worst = max(relative(found[k], expected[k]) for k in expected)
    assert worst < 1e-3, worst
    return f"stopped at steps {at}; largest relative difference of a leaf {worst:.1e}"


def relative(found, expected):
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


# fault -> how it is made, how often, and what is required of the run
FAULTS = {
    "full pipe on stdout and stderr": (silent_reader, 2, EQUAL),
    "closed pipe on stdout and stderr": (closed_reader, 1, EQUAL),
    "disk of the log full": (full_log, 1, EQUAL),
    "disk full during a save": (disk_full, 4, ERROR),
    "read-only workdir": (read_only, 1, ERROR),
    "clock going backwards": (clock, 1, EQUAL),
    "1 % corrupt JPEGs, on_error=stop": (pictures.stop, 1, ERROR),
    "1 % corrupt JPEGs, on_error=skip": (pictures.skip, 1, EQUAL),
    "a truncated array_record shard": (pictures.truncated_shard, 3, ERROR),
    "a flipped bit in an array_record shard": (pictures.flipped_shard, 2, ERROR),
    "4 processes, then 2 with the newest checkpoint damaged, then 1": (
        fewer_processes,
        1,
        "equal but for the order of sums",
    ),
    "a checkpoint is truncated": (truncated, 4, EQUAL),
    "a bit of a checkpoint is flipped": (flipped, 6, EQUAL),
    "every checkpoint is truncated": (all_damaged, 1, ERROR),
}
