"""launch/local_pod and the flags of a job; tests/test_nothing_lost.py starts a pod for real."""

import subprocess
import sys

import jax
import pytest
from helpers import ROOT

from jssl import job, main


def test_the_flags_of_the_job_reach_jax(monkeypatch):
    seen = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: seen.update(k, args=a))

    words = ["--coordinator=h:1", "--processes=4", "--process=2", "--init_timeout=7"]
    main._distribute(main.parse("train", [*words, "--heartbeat_timeout=8", "--shutdown_timeout=9"]))
    assert seen == {
        "args": ("h:1", 4, 2),
        "initialization_timeout": 7,
        "heartbeat_timeout_seconds": 8,
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


def test_one_process_keeps_its_exceptions():
    with pytest.raises(KeyError), job.together("run"):
        raise KeyError("mine")
