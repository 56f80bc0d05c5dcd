"""The lock of a workdir: one run at a time, and nothing that is dead stands in the way."""

import json
import os
import subprocess
import sys
import threading

import pytest
from helpers import ROOT, small_config

from jssl.errors import UserError
from jssl.run import lock
from jssl.run.train import train

HOLDER = """
import sys
from pathlib import Path
from jssl.run import lock, stopping
with stopping.signals(), lock.held(Path(sys.argv[1])):
    print("HERE", flush=True)
    sys.stdin.readline()
    {then}
"""


@pytest.fixture
def holder(tmp_path):
    """A real process that holds the lock of a folder until it reads a line."""
    started = []

    def begin(then="pass"):
        program = HOLDER.format(then=then)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert "HERE\n" in iter(process.stdout.readline, "")
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def written(folder, **changes):
    """A lock as another process left it."""
    with lock.held(folder):
        found = json.loads((folder / lock.NAME).read_text())
    (folder / lock.NAME).write_text(json.dumps({**found, **changes}))


def test_a_second_run_is_refused_and_the_lock_of_a_killed_one_is_taken_over(
    tmp_path, holder, capsys
):
    process = holder()
    before = (tmp_path / lock.NAME).read_bytes()
    config = small_config("simclr", max_steps=1, launch="jit")
    said = rf"belongs to a run.*process {process.pid} on host .*, since \d{{4}}-\d\d-\d\dT"
    with pytest.raises(UserError, match=said):
        train(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]
    assert (tmp_path / lock.NAME).read_bytes() == before
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and nobody has looked
    with lock.held(tmp_path):
        pass
    assert f"is taken over from process {process.pid} on host" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", ["pass", "1 / 0", "import signal; signal.raise_signal(15)"])
def test_the_lock_is_released_at_every_exit(tmp_path, holder, then, capsys):
    process = holder(then)
    process.communicate("\n")
    assert process.returncode in (0, 1, 75)
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path):
        pass
    assert capsys.readouterr().out == ""


def test_a_reused_process_id_is_detected(tmp_path, capsys):
    written(tmp_path, started="1", token="other")
    with lock.held(tmp_path):
        pass
    assert "whose process is dead" in capsys.readouterr().out


def test_only_the_same_thread_takes_the_lock_again(tmp_path):
    errors = []

    def second():
        try:
            with lock.held(tmp_path):
                pass
        except UserError as error:
            errors.append(error)

    with lock.held(tmp_path), lock.held(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_another_hosts_lock_is_taken_over_when_it_gives_no_sign_of_life(
    tmp_path, monkeypatch, capsys
):
    written(tmp_path, machine="elsewhere", host="node7", pid=41, token="other", beat=1.0)
    path, slept = tmp_path / lock.NAME, []
    now = [0.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])

    def sleep(seconds):
        slept.append(seconds)
        now[0] += 30

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with lock.held(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    said = capsys.readouterr().out
    assert "held by process 41 on host node7" in said and "Waiting 120 s" in said
    assert "gave no sign of life for 120 s" in said and len(slept) == 4
    # One that lives is not taken over, whatever its clock says.
    written(tmp_path, machine="elsewhere", host="node7", pid=41, token="other", beat=1.0)

    def beat(seconds):
        path.write_text(json.dumps({**json.loads(path.read_text()), "beat": 2.0}))

    monkeypatch.setattr(lock.time, "sleep", beat)
    with pytest.raises(UserError, match="process 41 on host node7"), lock.held(tmp_path):
        pass
    assert json.loads(path.read_text())["token"] == "other"


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": "x"', "\xff"])
def test_an_unreadable_lock_is_taken_over_after_waiting(tmp_path, monkeypatch, content):
    (tmp_path / lock.NAME).write_bytes(content.encode("latin-1"))
    os.utime(tmp_path / lock.NAME, (0, 0))
    with lock.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_lost_its_lock_stops_writing(tmp_path, monkeypatch):
    with lock.held(tmp_path):
        (tmp_path / lock.NAME).write_text(json.dumps({"pid": 7, "host": "h", "token": "other"}))
        held = lock._held[tmp_path.resolve() / lock.NAME]
        monkeypatch.setattr(lock, "BEAT", 0.0)
        held._over.wait = lambda seconds: held.lost
        held._beat()
        with pytest.raises(UserError, match="was taken over by process 7 on host h"):
            lock.check(tmp_path)
    assert json.loads((tmp_path / lock.NAME).read_text())["token"] == "other"
