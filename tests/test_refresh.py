"""The loop with a method that refreshes: when it is called, and that no kill changes anything."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, small_config

from jssl.data.pipeline import TrainBatches
from jssl.methods import _clusters
from jssl.run import build, checkpoint
from jssl.run.train import train

STEPS, EVERY = 11, 3  # epochs of 4 steps: refreshes before steps 0, 4 and 8


def config():
    c = small_config("deepcluster", launch="jit", max_steps=STEPS, epochs=10.0)
    c.model.update({"name": "resnet8", "stage_sizes": (1,), "width": 0.125})
    c.augment.size = 16
    c.data.update({"name": "synthetic", "image_size": 16, "num_examples": 70, "threads": 2})
    c.checkpoint.every_steps = EVERY
    c.monitor.every_epochs = 0.0
    c.log.tensorboard = False
    return c


def final_state(folder):
    parts = build.build(config())
    saved = checkpoint.Checkpoints(folder, method="deepcluster", read_only=True)
    state, data_state = saved.restore(build.abstract_state(parts), STEPS)
    saved.close()
    assert data_state["next_step"] == STEPS
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(state).items()}


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def rows(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "second" not in k and k != "time"} for row in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(), folder)
    return folder


def test_refresh_runs_before_the_first_step_of_every_epoch(uninterrupted):
    """Its numbers stand with that step's; the previous assignments are there from the second on."""
    found = [row for row in rows(uninterrupted) if "cluster/entropy" in row]
    assert [row["step"] for row in found] == [1, 5, 9]
    assert ["cluster/nmi_previous" in row for row in found] == [False, True, True]
    losses = {row["step"]: row["loss"] for row in rows(uninterrupted) if "loss" in row}
    assert len(losses) == STEPS
    for first in (1, 5, 9):  # a fresh top layer every time: ln 8
        assert losses[first] == pytest.approx(np.log(8), abs=0.05)


class KilledError(Exception):
    """What stands for the end of the process."""


def test_a_stopped_refresh_reaches_the_same_state(tmp_path, uninterrupted, monkeypatch):
    """In clustering, in mid-epoch, and at an epoch's boundary with its checkpoint written."""
    folder, cluster = tmp_path / "run", _clusters.cluster

    def stop_in_clustering(*args, **options):
        cluster(*args, **options)
        raise KilledError

    def attempt():
        with pytest.raises(KilledError):
            train(config(), folder)

    calls = []

    def stop_in_second_clustering(*args, **options):
        calls.append(1)
        return (stop_in_clustering if len(calls) == 2 else cluster)(*args, **options)

    # From nothing to the refresh before step 4; the newest checkpoint is of step 3.
    monkeypatch.setattr(_clusters, "cluster", stop_in_second_clustering)
    attempt()
    monkeypatch.setattr(_clusters, "cluster", cluster)
    # From 3, in mid-epoch, to step 7; the newest is of step 6, in the next epoch.
    following = TrainBatches.__next__

    def stop_at(step):
        def take(batches):
            if batches.next_step == step:
                raise KilledError
            return following(batches)

        return take

    monkeypatch.setattr(TrainBatches, "__next__", stop_at(7))
    attempt()
    monkeypatch.setattr(TrainBatches, "__next__", following)
    # From 6 to the boundary at 8, with a checkpoint there, into its refresh.
    monkeypatch.setattr(_clusters, "cluster", stop_in_clustering)
    halves = config()
    halves.checkpoint.every_steps = 8
    with pytest.raises(KilledError):
        train(halves, folder)
    monkeypatch.setattr(_clusters, "cluster", cluster)
    newest = max(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())
    assert newest == 8
    before = checkpoint.Checkpoints(folder, method="deepcluster", read_only=True)
    state, _ = before.restore(build.abstract_state(build.build(config())), 8)
    before.close()
    train(config(), folder)
    same_bits(final_state(folder), final_state(uninterrupted))
    # The checkpoint of the boundary is of before the refresh.
    assert (np.asarray(state.assignments) != final_state(folder)["assignments"]).any()
    for key in ("loss", "cluster/entropy"):
        found, expected = ([r for r in rows(f) if key in r] for f in (folder, uninterrupted))
        assert found == expected


KILLED = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {tests!r})
import conftest
from test_refresh import config
from jssl.methods import _clusters
from jssl.run.train import train

cluster, calls = _clusters.cluster, []

def killed(*args, **options):
    calls.append(1)
    if len(calls) == 2:
        while not pathlib.Path({folder!r}, "checkpoints", "3").exists():
            time.sleep(0.01)  # it is written beside
        os.kill(os.getpid(), signal.SIGKILL)
    return cluster(*args, **options)

_clusters.cluster = killed
train(config(), {folder!r})
"""


def test_kill_9_in_clustering(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    program = KILLED.format(tests=str(ROOT / "tests"), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    newest = max(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())
    assert newest == 3
    train(config(), folder)
    same_bits(final_state(folder), final_state(uninterrupted))


JOB = """
import sys
sys.path.insert(0, {tests!r})
import jax
jax.distributed.initialize("127.0.0.1:{port}", 2, {process})
import conftest
from test_refresh import config
from jssl.run.train import train

c = config()
c.launch, c.max_steps = "pmap", 6
train(c, {folder!r})
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_refresh_in_lockstep(tmp_path, uninterrupted):
    """Two real processes of two devices each, over gloo: each reads and embeds its part of every
    batch, and both come to the clusters, the order and the losses of one device alone."""
    folder, port = tmp_path / "run", free_port()
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", JOB.format(
                tests=str(ROOT / "tests"), port=port, process=i, folder=str(folder)
            )],
            stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        for process in pair:
            _, error = process.communicate(timeout=240)
            assert process.returncode == 0, error
    finally:
        for process in pair:
            process.kill()
    found, expected = rows(folder), rows(uninterrupted)
    assert [row["step"] for row in found] == [row["step"] for row in expected if row["step"] <= 6]
    for a, b in zip(found, expected, strict=False):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), (b["step"], key)
