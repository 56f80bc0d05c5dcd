"""launch/local_pod for real: two processes, one of them killed, and a resume with one."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, assert_same_state, small_config

from jssl import checkpoint, experiment, main
from jssl.train import train

STEPS = 200  # the pod is killed long before


def words(workdir, *more):
    return [
        f"--config={ROOT}/configs/simclr_photos.py:smoke",
        f"--workdir={workdir}",
        f"--config.max_steps={STEPS}",
        "--config.checkpoint.every_steps=2",
        "--config.monitor.every_epochs=0",
        "--config.final.enabled=False",
        "--config.log.tensorboard=False",
        *more,
    ]


def begin(command, cache, cwd):
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *command], env=env, cwd=cwd, stderr=subprocess.PIPE, text=True
    )


def final_state(workdir):
    _, state = experiment.load_encoder(workdir)
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(state).items()}


def children_of(pid):
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return {int(r[0]): r[2] for r in rows if int(r[1]) == pid}


def newest(workdir):
    return max((int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()), default=0)


def test_a_worker_that_dies_brings_the_others_down_and_one_process_resumes_exactly(tmp_path):
    workdir, cache = tmp_path / "pod", tmp_path / "cache"
    pod = begin(
        [f"{ROOT}/launch/local_pod", "--processes=2", "--devices=1", "--", *words(workdir)],
        cache,
        tmp_path,
    )
    try:
        begun = time.monotonic()
        while newest(workdir) < 4:
            assert pod.poll() is None, pod.stderr.read()
            assert time.monotonic() - begun < 240
            time.sleep(0.02)
        victim = next(i for i, args in children_of(pod.pid).items() if "--process=1" in args)
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        _, said = pod.communicate(timeout=120)
        assert time.monotonic() - begun < 60
    finally:
        for pid in children_of(pod.pid):
            os.kill(pid, signal.SIGKILL)
        pod.kill()
    assert pod.returncode != 0
    assert said.count("lost another process of the job and stops") == 1
    assert said.count("local_pod: process 1 was killed by SIGKILL") == 1
    assert "Traceback" not in said
    reached = newest(workdir)
    assert 4 <= reached < STEPS

    few = ["--config.launch=jit", f"--config.max_steps={reached + 2}"]
    one = begin(["-m", "jssl", "train", *words(workdir, *few)], cache, tmp_path)
    _, said = one.communicate(timeout=240)
    assert one.returncode == 0, said
    assert f"resumed at step {reached}" in said
    found = final_state(workdir)
    assert found["step"] == reached + 2
    config = small_config("simclr", launch="jit", max_steps=reached + 2)
    config.checkpoint.every_steps, config.monitor.every_epochs = 1000, 0.0
    whole = checkpoint.flat_leaves(train(config, tmp_path / "whole"))
    assert_same_state(found, {k: np.asarray(v) for k, v in whole.items()})


def test_the_flags_of_the_job_reach_jax(monkeypatch):
    import jax

    seen = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: seen.update(k, args=a))

    class Flags:
        coordinator, processes, process, distributed = "h:1", 4, 2, False
        init_timeout, heartbeat_timeout, shutdown_timeout = 7, 8, 9

    monkeypatch.setattr(main.flags, "FLAGS", Flags)
    main._distribute()
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
