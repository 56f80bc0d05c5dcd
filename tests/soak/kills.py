"""Runs that are killed again and again at random moments, and end as if nobody had."""

import os
import signal
import time
from pathlib import Path

from soak import runs

WORKERS = "--config.data.workers=1"
# kind -> its share of a hundred
KINDS = {
    "KILL at any moment": 24,
    "KILL during a save": 24,
    "KILL while a data worker reads": 8,
    "KILL of the data worker": 8,
    "TERM at any moment": 12,
    "TERM during a save": 10,
    "TERM, KILL up to 0.3 s later": 6,
    "KILL of one of 2 processes": 4,
    "TERM of one of 2 processes": 2,
    "KILL of one of 4 processes": 2,
}


def deal(kills, times, dice):
    """The kinds that are left of so many kills, in their shares and random order; pods first."""
    total = sum(KINDS.values())
    order = []
    for kind, share in KINDS.items():
        order += [kind] * (max(1, round(share * kills / total)) - times(kind))
    dice.shuffle(order)
    return sorted(order, key=lambda kind: -pod_of(kind))


def pod_of(kind):
    return 2 if "of 2" in kind else 4 if "of 4" in kind else 0


def soak(lab, kills, done):
    """Campaigns of up to ten kills of one run each; calls `done(kind, outcome, words)` for each."""
    order = deal(kills, done.times, lab.dice)
    while order:
        pod = pod_of(order[0])
        some = [kind for kind in order if pod_of(kind) == pod][: 4 if pod else 10]
        name = f"pod of {pod}" if pod else "one process"
        place = lab.place("killed")
        lab.whole(name, pod=pod)
        met = []
        try:
            met = campaign(lab, place, some, name, pod)
            outcome, words = "equal", ""
        except (runs.Failed, AssertionError) as error:
            outcome, words = "failed", f"{error}"[:800]
            lab.log(f"FAILED {place.name} {some}: {words}")
        met = met or some[:1]
        for kind in met:
            done(kind, outcome, words)
            order.remove(kind)
        lab.log(f"{place.name}: {len(met)} kills {outcome}; {len(order)} left")


def campaign(lab, place, kinds, name, pod):
    """Kills one run in the given ways, then lets it end; returns the kinds that met it alive."""
    met = []
    for kind in kinds:
        flags = [WORKERS] if "data worker" in kind else []
        process = lab.start(place, *flags, pod=pod)
        try:
            alive = strike(lab, kind, process, place, name, pod)
        finally:
            family = [process.pid, *family_of(process.pid)]
            if process.poll() is None:
                process.kill()
            process.wait()
            end_family(family[1:])
        if not alive:
            break
        met.append(kind)
    lab.finish(place, name, pod=pod)
    return met


def strike(lab, kind, process, place, name, pod):
    """Disturbs a run once, in the way of `kind`; False when the run had ended before."""
    _, life = lab.whole(name, pod=pod)
    before = runs.newest(place)
    moment = time.monotonic() + lab.dice.uniform(0.0, 0.8 * life)
    begun, victim = time.monotonic(), process.pid
    while True:
        if process.poll() is not None:
            if process.returncode:
                lab.end(process, place)
            return False
        if time.monotonic() - begun > runs.PATIENCE:
            raise runs.Failed(f"'{kind}' found no moment in {runs.PATIENCE} s")
        if pod:
            # Once it has saved something new, at a random moment of what is left.
            found = [p for p in family_of(process.pid) if "--process=" in words_of(p)]
            if len(found) == pod and runs.newest(place) > before:
                time.sleep(lab.dice.uniform(0.0, 1.0))
                victim = lab.dice.choice(found)
                break
        elif "save" in kind:
            if runs.torn(place):
                break
        elif "data worker" in kind:
            found = [p for p in family_of(process.pid) if "spawn_main" in words_of(p)]
            if found and runs.newest(place) > before:
                time.sleep(lab.dice.uniform(0.0, 0.5))
                victim = found[0] if "of the data worker" in kind else victim
                break
        elif time.monotonic() > moment:
            break
        time.sleep(0.002)
    family = family_of(process.pid)
    if not gone(victim):
        os.kill(victim, signal.SIGTERM if kind.startswith("TERM") else signal.SIGKILL)
    if "later" in kind:
        time.sleep(lab.dice.uniform(0.0, 0.3))
        process.kill()
    after(lab, kind, process, place, family)
    return True


def after(lab, kind, process, place, family):
    """What a strike must lead to."""
    begun = time.monotonic()
    try:
        process.wait(runs.PATIENCE)
    except Exception:
        raise runs.Failed(f"after '{kind}' the run did not end in {runs.PATIENCE} s") from None
    seconds = time.monotonic() - begun
    said = lab.log_of(place).read_text(errors="replace")
    status = process.returncode
    if kind.startswith("TERM") and "later" not in kind:
        # 75: saved and left, or there was nothing to save; -15: it came while Python started; 0: it
        # came at the very end.
        if status == 75 and "type the same command again" not in said:
            raise runs.Failed(f"TERM, status 75, but nothing said: {said[-500:]}")
        if status == 0 and runs.newest(place) != runs.STEPS:
            raise runs.Failed(f"TERM, status 0, but the run is not at its end: {said[-500:]}")
        if status not in (0, 75, -signal.SIGTERM):
            raise runs.Failed(f"TERM ended with status {status}: {said[-800:]}")
    elif "of one of" in kind and (status == 0 or seconds > 60):
        raise runs.Failed(f"a pod that lost a process: status {status} after {seconds:.0f} s")
    elif "of the data worker" in kind and runs.newest(place) < runs.STEPS:
        if status == 0 or seconds > 60:
            raise runs.Failed(f"a lost data worker: status {status} after {seconds:.0f} s")
        runs.last_words(said)
    until = time.monotonic() + 15
    while left := [p for p in family if not gone(p)]:
        if time.monotonic() > until:
            raise runs.Failed(f"after '{kind}' {len(left)} processes of the run are still there")
        time.sleep(0.1)


def family_of(pid):
    """The processes below one."""
    below = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, stack = [], [pid]
    while stack:
        children = below.get(stack.pop(), [])
        found += children
        stack += children
    return found


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end_family(pids):
    for pid in pids:
        if not gone(pid) and "jssl" in words_of(pid):
            os.kill(pid, signal.SIGKILL)
