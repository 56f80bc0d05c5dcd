"""launch/local_pod and the flags of a job; tests/test_nothing_lost.py starts a pod for real."""

import importlib.machinery
import os
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import pytest
from helpers import ROOT

from jssl import flags, main
from jssl.parallel import heartbeat, job


def test_the_flags_of_the_job_reach_jax(monkeypatch):
    seen = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: seen.update(k, args=a))

    words = ["--coordinator=h:1", "--processes=4", "--process=2", "--init_timeout=7"]
    main._distribute(
        flags.parse("train", [*words, "--heartbeat_timeout=8", "--shutdown_timeout=9"])
    )
    assert seen == {
        "args": ("h:1", 4, 2),
        "initialization_timeout": 7,
        "heartbeat_timeout_seconds": 8 + heartbeat.LATER,
        "shutdown_timeout_seconds": 9,
    }


@pytest.mark.parametrize("given", [[], ["--processes=2"]])
def test_local_pod_without_words_says_what_it_needs(given):
    done = subprocess.run(
        [sys.executable, f"{ROOT}/launch/local_pod", *given], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "come after --" in done.stderr


def test_what_the_runtime_says_of_a_lost_process():
    error = jax.errors.JaxRuntimeError
    gloo = "FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Connection closed"
    assert job.lost_another(error(gloo))
    assert job.lost_another(error("UNAVAILABLE: failed to connect to all addresses"))
    assert not job.lost_another(error("RESOURCE_EXHAUSTED: out of memory"))
    assert not job.lost_another(OSError("Connection reset"))


class Store:
    """The job's key-value store, where process 1 gives `signs` and then none."""

    def __init__(self, *signs):
        self.values, self.signs = {}, iter(signs)

    def key_value_set(self, key, value, allow_overwrite):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        if (sign := next(self.signs, None)) is not None:
            self.values[f"{folder}/1"] = sign
        return list(self.values.items())


def watch(store):
    said, stop = [], threading.Event()

    def lost(why):
        said.append(why)

    thread = threading.Thread(target=heartbeat.watch, args=(store, 0, 0.3, lost, stop))
    thread.start()
    return said, stop, thread


def test_a_process_that_falls_silent_is_lost():
    said, _, thread = watch(Store("1", "2"))
    thread.join()
    assert said == ["process 1 gave no sign of life for 0.3 seconds"]


def test_a_process_that_is_done_or_has_not_begun_is_not_lost():
    for signs in (("1", "done"), ()):
        store = Store(*signs)
        said, stop, thread = watch(store)
        while int(store.values.get("jssl/alive/0", 0)) < 3 * heartbeat.SIGNS:
            time.sleep(0.01)
        stop.set()
        thread.join()
        assert said == []


def test_a_store_that_is_gone_is_process_0():
    store = Store()

    def gone(*_, **__):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: failed to connect")

    store.key_value_set = gone
    said, _, thread = watch(store)
    thread.join()
    assert said == ["process 0, which the others talk through, cannot be reached"]


def test_one_process_keeps_its_exceptions():
    with pytest.raises(KeyError), job.together("run"):
        raise KeyError("mine")


STAND_IN = """
import pathlib, signal, sys, time
mine = sys.argv[-1].partition("=")[2]
def asked(*_):
    pathlib.Path(f"asked-{mine}").touch()
    if "--stubborn" not in sys.argv:
        sys.exit(75)
signal.signal(signal.SIGTERM, asked)
pathlib.Path(f"ready-{mine}").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_signal_is_passed_on_once_and_a_second_one_kills(tmp_path, number, stubborn):
    """Processes that save and end with 75, as `jssl train` does; and some that do not end."""
    (tmp_path / "jssl").mkdir()
    (tmp_path / "jssl" / "__init__.py").touch()
    (tmp_path / "jssl" / "__main__.py").write_text(STAND_IN)
    words = ["--", "--stubborn"] if stubborn else ["--"]
    pod = subprocess.Popen(
        [sys.executable, f"{ROOT}/launch/local_pod", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait_for(name):
        while not all((tmp_path / f"{name}-{i}").exists() for i in range(2)):
            assert pod.poll() is None
            time.sleep(0.01)

    try:
        wait_for("ready")
        pod.send_signal(number)
        if stubborn:
            wait_for("asked")
            pod.send_signal(number)
        _, said = pod.communicate(timeout=60)
    finally:
        pod.kill()
    assert pod.returncode == (1 if stubborn else 75)
    assert ("was killed by SIGKILL" in said) == stubborn


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        (["exit 3", "kill -9 $$"], (1, -9)),  # the signal is the cause, status 3 its consequence
        (["exit 75", "exit 3"], (1, 3)),
        (["exit 0", "exit 75"], (1, 75)),
        (["exit 0", "exit 0"], None),
    ],
)
def test_the_cause_of_a_failure_is_named_before_its_consequence(ends, first):
    loader = importlib.machinery.SourceFileLoader("local_pod", f"{ROOT}/launch/local_pod")
    pod = types.ModuleType("local_pod")
    exec(loader.get_code("local_pod"), pod.__dict__)
    children = [subprocess.Popen(["sh", "-c", end]) for end in ends]
    for child in children:
        child.wait()
    assert pod.first_failure(children) == first


def test_doctor_in_four_processes(tmp_path):
    command = [sys.executable, ROOT / "launch/local_pod", "--processes=4", "--devices=1"]
    done = subprocess.run(
        [*command, "--", "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "backend cpu: 4 x cpu, 1 in this process" in done.stdout
    assert "process 0 of 4" in done.stdout and "clocks differ by at most" in done.stdout
    assert "over 4 device(s): the sum is right" in done.stdout
    assert done.stdout.count("software") == 1  # one page, of process 0
    assert done.stdout.endswith("No problem.\n")
