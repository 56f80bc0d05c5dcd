"""Real runs of the command, killed and stopped: nothing already computed is lost."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, assert_same_state, small_config, start

from jssl.run import checkpoint, chosen

STEPS = 200
# What is proven does not depend on the network: a small one, on few pixels, in code that compiles
# fast; the sums of one device and of several are equal to 1e-5 all the same.
SMALL = {"augment.size": 16, "model.width": 0.125, "model.stage_sizes": (1,)}
FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
AT_THE_END = ["--config.checkpoint.every_steps=1000"]
KILLS = int(os.environ.get("JSSL_KILLS", 3))  # launch/records/soak.json has dozens


def command(workdir, *flags):
    return [
        sys.executable,
        "-m",
        "jssl",
        "train",
        f"--config={ROOT}/configs/simclr_photos.py:smoke",
        f"--workdir={workdir}",
        f"--config.max_steps={STEPS}",
        "--config.checkpoint.every_steps=2",
        "--config.monitor.every_epochs=0",
        "--config.final.enabled=False",
        "--config.log.tensorboard=False",
        "--config.launch=jit",
        *(f"--config.{key}={value}" for key, value in SMALL.items()),
        *flags,
    ]


def launch(workdir, cache, *flags, devices=1, log=subprocess.DEVNULL):
    env = {
        **os.environ,
        "XLA_FLAGS": f"{FAST} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command(workdir, *flags), env=env, cwd=workdir.parent, stdout=log, stderr=log, text=True
    )


def final_state(workdir):
    config = small_config("simclr")
    chosen.set_all(config, [(key, str(value)) for key, value in SMALL.items()])
    _, _, blank, _ = start(config, "jit")
    saved = checkpoint.Checkpoints(workdir, method="simclr", read_only=True)
    state, data_state = saved.restore(blank)
    saved.close()
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(state).items()}, data_state


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    """The same run, never touched."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = launch(workdir, cache, *AT_THE_END, log=subprocess.PIPE)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    state, data_state = final_state(workdir)
    assert state["step"] == STEPS
    assert data_state["next_step"] == STEPS
    return state


def newest(workdir):
    return max((int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()), default=0)


def test_kills_at_random_moments_change_nothing(tmp_path, cache, uninterrupted):
    """Half of the kills come while a save is being written, half at any moment."""
    workdir, dice, during_a_save = tmp_path / "run", random.Random(0), 0
    for kill in range(KILLS):
        before = newest(workdir)
        process = launch(workdir, cache)
        in_save = kill % 2 == 0
        delay, begun = dice.uniform(0.0, 0.6), time.monotonic()
        torn = []
        while time.monotonic() - begun < 120:
            assert process.poll() is None, "the run ended before it was killed: raise STEPS"
            torn = list(workdir.glob("checkpoints/*tmp*"))
            if in_save and torn:
                break
            # The other kind counts from the first new checkpoint, or from the start of the process.
            if not in_save and (newest(workdir) > before or kill % 4 == 3):
                time.sleep(delay)
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        during_a_save += bool(list(workdir.glob("checkpoints/*tmp*")))
    assert during_a_save >= KILLS // 2, (
        "no kill met a save: this test proves nothing about torn saves"
    )
    assert 0 < newest(workdir) < STEPS
    process = launch(workdir, cache, *AT_THE_END, log=subprocess.PIPE)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "resumed at step" in error
    same_bits(final_state(workdir)[0], uninterrupted)


def test_sigterm_saves_and_resumes_exactly(tmp_path, cache, uninterrupted):
    workdir = tmp_path / "run"
    log = open(tmp_path / "log", "w+")
    process = launch(workdir, cache, *AT_THE_END, log=log)
    begun = time.monotonic()
    while "step 3/" not in (tmp_path / "log").read_text():
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    said = (tmp_path / "log").read_text()
    log.close()
    stopped_at = newest(workdir)
    assert 3 <= stopped_at < STEPS
    assert f"the state after step {stopped_at} is saved" in said
    assert "To resume" in said
    assert "python -m jssl train" in said
    assert f"--workdir={workdir}" in said
    process = launch(workdir, cache, *AT_THE_END, log=subprocess.PIPE)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert f"resumed at step {stopped_at}" in error
    same_bits(final_state(workdir)[0], uninterrupted)


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children_of(pid):
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return {int(row[0]): row[2] for row in rows if int(row[1]) == pid}


def test_a_worker_that_dies_brings_the_pod_down_and_one_process_resumes_exactly(tmp_path, cache):
    """launch/local_pod with four processes under pmap, against one device alone."""
    workdir = tmp_path / "pod"
    words = [sys.executable, str(ROOT / "launch/local_pod"), "--processes=4", "--devices=1", "--"]
    words += command(workdir, "--config.launch=pmap", "--heartbeat_timeout=10")[4:]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": FAST}
    pod = subprocess.Popen(words, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        begun = time.monotonic()
        while newest(workdir) < 2:
            assert pod.poll() is None, pod.stderr.read()
            assert time.monotonic() - begun < 240
            time.sleep(0.01)
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
    # The survivor says so when its communication breaks, or when the other gives no sign of life.
    assert "jssl: process 0 of 4 lost another process of the job" in said
    assert "another task died" not in said
    assert said.count("local_pod: process 1 was killed by SIGKILL") == 1
    reached = newest(workdir)
    assert 2 <= reached < STEPS
    few = [f"--config.max_steps={reached + 1}", *AT_THE_END]
    for folder in (workdir, tmp_path / "alone"):
        process = launch(folder, cache, *few, log=subprocess.PIPE)
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert (f"resumed at step {reached}" in error) == (folder == workdir)
    found = final_state(workdir)[0]
    assert found["step"] == reached + 1
    assert_same_state(found, final_state(tmp_path / "alone")[0])
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == reached + 1  # only process 0 writes


@pytest.mark.parametrize("mode", ["shard_map", pytest.param("fsdp", marks=pytest.mark.proof)])
def test_two_processes_give_the_state_of_one(tmp_path, cache, mode):
    """Two real processes with two devices each, over gloo, against one device alone."""
    few = ["--config.max_steps=4", *AT_THE_END]
    alone = launch(tmp_path / "one", cache, *few, log=subprocess.PIPE)
    port = free_port()
    pair = [
        launch(
            tmp_path / "two",
            cache,
            *few,
            f"--config.launch={mode}",
            f"--coordinator=127.0.0.1:{port}",
            "--processes=2",
            f"--process={i}",
            devices=2,
            log=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        for process in [alone, *pair]:
            _, error = process.communicate(timeout=240)
            assert process.returncode == 0, error
    finally:
        for process in pair:
            process.kill()
    one, two = final_state(tmp_path / "one")[0], final_state(tmp_path / "two")[0]
    assert two["step"] == 4
    assert_same_state(two, one)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4  # only process 0 writes
