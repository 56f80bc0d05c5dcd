"""Signals to real processes: what is computed is saved, and the caller's handlers are its own."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import ROOT, small_config

from jssl.run import judge, stopping
from jssl.run.train import train

# A run whose parts are replaced by one that says where it is and then waits for the signal.
PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
import conftest
import jssl.run.train, jssl.run.judge, jssl.run.build
from jssl import main
from jssl.parallel.launcher import Launcher

def hang(*_, **__):
    print("HERE", flush=True)
    while True:
        time.sleep(0.01)

{patch}
sys.argv = {argv!r}
main.run()
"""
COMPILING = """
make = jssl.run.build.make_launcher
jssl.run.build.make_launcher = lambda mode: make(mode)._replace(
    compile_step=lambda step: hang)
"""
MONITORING = """
jssl.run.train.make_monitor = lambda parts: (
    lambda state: hang() if int(state.step) else ({}, []))
"""
JUDGING = "jssl.run.judge.final_rows = hang"
STEPPING = """
finished = jssl.run.train._Run._log_step
def slow(self, step, *rest):
    finished(self, step, *rest)
    if step == 1:
        print("HERE", flush=True)
        sys.stdin.readline()
jssl.run.train._Run._log_step = slow
"""
SAVING = """
finished = jssl.run.train._Run._log_step
def slow(self, step, *rest):
    finished(self, step, *rest)
    if step == 1:
        hang()
jssl.run.train._Run._log_step = slow
"""
REFRESHING = """
build, count = jssl.run.build.build, []
def refresh(state, batches):
    count.append(1)
    return (state, {}) if len(count) == 1 else hang()
def with_refresh(config):
    parts = build(config)
    return parts._replace(method=parts.method._replace(refresh=refresh))
jssl.run.build.build = with_refresh
"""


# So little that each of these processes is over in seconds; an epoch has four steps.
SMALL = (
    "--config.data.name=synthetic", "--config.data.num_examples=64", "--config.augment.size=16",
    "--config.model.stage_sizes=(1,)", "--config.model.width=0.0625", "--config.epochs=1000",
)  # fmt: skip


@pytest.fixture
def start():
    """Starts the command with a patch; no process outlives its test."""
    running = []

    def begin(folder, patch, *, steps=3, words=(), **streams):
        argv = [
            "jssl", "train", f"--config={ROOT}/configs/simclr_photos.py:smoke",
            f"--workdir={folder}", f"--config.max_steps={steps}",
            "--config.log.tensorboard=False", "--config.launch=jit",
            "--config.checkpoint.every_steps=100", *SMALL, *words,
        ]  # fmt: skip
        program = PROGRAM.format(tests=str(ROOT / "tests"), patch=patch, argv=argv)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=folder.parent,
                text=True,
                **{**pipes, **streams},
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def until_here(process):
    for line in process.stdout:
        if line == "HERE\n":
            return
    pytest.fail(f"the process ended before: {process.stderr.read()}")


def ended(process):
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def steps_of(folder):
    return sorted(int(p.name) for p in folder.glob("checkpoints/*"))


QUIET = "--config.monitor.every_epochs=0"


@pytest.mark.parametrize(
    ("patch", "number", "words", "saved", "said"),
    [
        # One signal in each part, each in one part: the same lines handle all three, and the next
        # test sends each of them to the commonest part.
        (COMPILING, signal.SIGHUP, [QUIET], [], "SIGHUP: Nothing is lost"),
        (MONITORING, signal.SIGTERM, [], [1], "the state after step 1 is saved"),
        (JUDGING, signal.SIGINT, [QUIET], [3], "the training is finished and saved"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_signal_is_handled_in_every_part_of_a_run(
    start, tmp_path, patch, number, words, saved, said
):
    folder = tmp_path / "run"
    process = start(folder, patch, words=words)
    until_here(process)
    process.send_signal(number)
    status, found = ended(process)
    assert status == stopping.STATUS == 75
    assert said in found and "type the same command again: jssl train" in found
    assert "Traceback" not in found
    assert steps_of(folder) == saved


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_during_a_step_saves_after_it(start, tmp_path, number):
    folder = tmp_path / "run"
    process = start(folder, STEPPING, steps=50, words=[QUIET])
    until_here(process)
    process.send_signal(number)
    said = process.stderr.readline()
    while "is saved after this step" not in said:  # told at once, whatever the main thread does
        said = process.stderr.readline()
    process.stdin.write("\n")
    process.stdin.flush()
    status, said = ended(process)
    (step,) = steps_of(folder)
    assert status == 75 and 2 <= step < 50
    assert f"the state after step {step} is saved" in said


def test_a_second_signal_ends_at_once(start, tmp_path):
    process = start(tmp_path / "run", SAVING, words=[QUIET])
    until_here(process)
    process.send_signal(signal.SIGINT)
    while "A second signal ends at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 75 and "the second signal: ended at once" in said
    assert steps_of(tmp_path / "run") == []


def test_a_signal_during_a_refresh_saves_the_state_before_it(start, tmp_path):
    """That of the second epoch is left; the first epoch is kept."""
    folder = tmp_path / "run"
    process = start(folder, REFRESHING, steps=1000, words=[QUIET])
    until_here(process)
    process.send_signal(signal.SIGTERM)
    status, said = ended(process)
    assert status == 75 and steps_of(folder) == [4], said
    assert "the state after step 4 is saved" in said


JOB = """
import time
import jax
jax.process_count = lambda: 2
from jssl.run import stopping
with stopping.signals(), stopping.ends_at_once("All is saved.", last=True):
    print("HERE", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_a_process_of_a_job_exits_during_evaluation():
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", JOB], cwd=ROOT, text=True, **pipes)
    try:
        until_here(process)
        process.terminate()
        status, said = ended(process)
    finally:
        process.kill()
    assert status == 75 and "SIGTERM: All is saved." in said


CLOSING = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from jssl.run import stopping
finished = jssl.run.train._Run._log_step
def slow(self, step, *rest):
    finished(self, step, *rest)
    if step == 1:
        print("HERE", flush=True)
        while not stopping.asked():
            time.sleep(0.01)
jssl.run.train._Run._log_step = slow
"""


def test_a_closed_terminal_loses_nothing(start, tmp_path):
    """The kernel sends SIGHUP, and whatever is written to the screen from then on fails."""
    ours, theirs = os.openpty()
    process = start(
        tmp_path / "run", CLOSING, words=[QUIET], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"HERE" not in said:
        said += os.read(ours, 1000)
    os.close(ours)
    assert process.wait(timeout=120) == 75
    (step,) = steps_of(tmp_path / "run")
    assert step >= 2


def test_what_nohup_ignores_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def tiny(**settings):
    config = small_config("simclr", launch="jit", **{"max_steps": 1, **settings})
    config.data.update({"name": "synthetic", "num_examples": 64})
    config.model.update({"stage_sizes": (1,), "width": 0.0625})
    config.augment.size = 16
    config.monitor.every_epochs = 0.0
    config.final.linear_epochs = 1
    config.log.tensorboard = False
    return config


def test_a_library_call_leaves_the_handlers_of_its_caller(tmp_path, monkeypatch):
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {n: signal.signal(n, lambda *_: None) for n in numbers}
    monkeypatch.setattr(judge, "final_rows", lambda *_, **__: [])
    monkeypatch.setattr(judge, "format_table", lambda rows: "")
    mine = {n: signal.getsignal(n) for n in numbers}
    seen = []
    monkeypatch.setattr(
        "jssl.run.train._stop_requested",
        lambda _: seen.append({n: signal.getsignal(n) for n in numbers}),
    )
    try:
        judge.train_and_judge(tiny(), tmp_path / "run")
        assert seen == [mine] and {n: signal.getsignal(n) for n in numbers} == mine
        with stopping.signals():
            assert {n: signal.getsignal(n) for n in numbers} != mine
        assert {n: signal.getsignal(n) for n in numbers} == mine
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_in_a_thread_works(tmp_path):
    errors = []

    def run():
        try:
            judge.train_and_judge(tiny(), tmp_path / "run")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == [] and (tmp_path / "run" / "result.json").exists()


def test_wrong_monitor_settings_are_refused_before_training(tmp_path):
    for key, value, said in [
        ("knn_k", 33, "kNN with k=33 over 32 labelled examples"),
        ("knn_k", 0, "knn_k expects a whole number of at least 1, found 0"),
        ("knn_feature", "projektion", "did you mean 'projection'"),
        ("knn_temperature", 0.0, "knn_temperature expects a number above 0, found 0.0"),
        ("max_examples", 1, "max_examples expects a whole number of at least 2, found 1"),
    ]:
        config = tiny()
        config.monitor.update({"every_epochs": 1.0, key: value})
        with pytest.raises(ValueError, match=said):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    config.update({"monitor": {"every_epochs": 0.0, "knn_k": 10**6, "max_examples": 32}})
    with pytest.raises(ValueError, match="config.final.enabled"):
        judge.train_and_judge(config, tmp_path / "run")
    config.update({"final": {"linear_epochs": 0}, "monitor": {"knn_k": 5}})
    with pytest.raises(ValueError, match="linear_epochs expects a whole number of at least 1"):
        judge.train_and_judge(config, tmp_path / "run")


def test_a_failing_monitor_loses_nothing_and_is_repeated(tmp_path, monkeypatch):
    def broken(parts):
        return lambda state: ({"knn_top1": 1 / (int(state.step) == 0)}, [])

    config = tiny()
    config.monitor.every_epochs, config.final.enabled = 1e-6, False
    config.max_steps, config.checkpoint.every_steps = 2, 100
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr("jssl.run.train.make_monitor", broken)
        train(config, tmp_path / "run")
    assert steps_of(tmp_path / "run") == [1]
    train(config, tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "monitor_seconds" in row] == [0, 1, 2]
