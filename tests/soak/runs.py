"""Real runs of `jssl train`: started, waited for, and their last states compared bit for bit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from helpers import ROOT, assert_same_state

from jssl.run import build, checkpoint, checksums, workdir

logging.set_verbosity(logging.ERROR)
STEPS = 24
PATIENCE = 600  # seconds after which a run that does not end counts as hung


class Failed(Exception):  # noqa: N818 (an outcome of the soak)
    """The product did not do what the soak requires of it."""


class Lab:
    """Where a soak happens.

    Attributes:
        folder: of all its runs.
        dice: the random moments and places.
        log: called with a line for each thing that happened.
    """

    def __init__(self, folder, dice, log):
        self.folder, self.dice, self.log = Path(folder), dice, log
        self._count = 0
        self._whole = {}

    def place(self, name):
        """A workdir that is not there yet."""
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def start(self, place, *flags, pod=0, devices=1, env=None, config="simclr_photos", **pipes):
        """Starts a run, or `launch/local_pod` with `pod` processes of it."""
        words = [f"--config={ROOT}/configs/{config}.py:smoke", f"--workdir={place}"]
        words += [f"--config.max_steps={STEPS}", "--config.checkpoint.every_steps=2"]
        words += ["--config.monitor.every_epochs=0", "--config.final.enabled=False"]
        words += ["--config.launch=pmap" if pod else "--config.launch=jit", *flags]
        command = [sys.executable, "-m", "jssl", "train", *words]
        if pod:
            local_pod = [str(ROOT / "launch/local_pod"), f"--processes={pod}"]
            local_pod += [f"--devices={devices}", "--"]
            command = [sys.executable, *local_pod, *words]
        env = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "" if pod else "--xla_force_host_platform_device_count=1",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **(env or {}),
        }
        if not pipes:
            log = open(self.log_of(place), "w")
            pipes = {"stdout": log, "stderr": log}
        return subprocess.Popen(command, env=env, cwd=self.folder, **pipes)

    def log_of(self, place):
        return place.parent / f"{place.name}.log"

    def end(self, process, place, status=0):
        """Waits for a run, and requires its status; returns what it said."""
        try:
            found = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"hung for {PATIENCE} s") from None
        log = self.log_of(place)
        said = log.read_text(errors="replace") if log.exists() else ""
        if found != status:
            raise Failed(f"status {found} in place of {status}: {said[-600:]}")
        return said

    def whole(self, name, *flags, pod=0):
        """The workdir of an uninterrupted run, made once; and the seconds that it took."""
        if name not in self._whole:
            place, begun = self.folder / f"uninterrupted-{name}", time.monotonic()
            if not pod:  # first another, which compiles: it must give the same bits
                first = self.folder / f"first-{name}"
                self.end(self.start(first, *flags), first)
                begun = time.monotonic()
            self.end(self.start(place, *flags, pod=pod), place)
            seconds = time.monotonic() - begun
            if not pod:
                same_bits(state(first), state(place))
            self.log(f"uninterrupted run '{name}': {seconds:.1f} s")
            self._whole[name] = place, seconds
        return self._whole[name]

    def finish(self, place, name, *flags, **options):
        """Ends a run that was disturbed, and requires what the uninterrupted one gave."""
        said = self.end(self.start(place, *flags, **options), place)
        self.equal(place, name)
        return said

    def equal(self, place, name):
        expected, _ = self._whole[name]
        same_bits(state(place), state(expected))
        same_numbers(place, expected)


def newest(place):
    """The newest checkpoint that has its name, 0 for none."""
    return max((int(p.name) for p in place.glob("checkpoints/*") if p.name.isdigit()), default=0)


def torn(place):
    return list(place.glob("checkpoints/*tmp*"))


def state(place):
    """The newest checkpoint as {path: array}, its files compared with their sums."""
    config = workdir.read_config(place)
    method, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, config.batch_size))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)
    saved = checkpoint.Checkpoints(place, method=config.method, read_only=True)
    found, data_state = saved.restore(like)
    saved.close()
    leaves = {k: np.asarray(v) for k, v in checkpoint.flat_leaves(found).items()}
    return {**leaves, "next_step": np.asarray(data_state["next_step"])}


def same_bits(found, expected):
    if found.keys() != expected.keys():
        raise Failed("another tree of leaves")
    wrong = [k for k in expected if found[k].tobytes() != expected[k].tobytes()]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(expected)} leaves differ, first {wrong[0]}")


def near(found, expected):
    """As `assert_same_state`: 1e-5, for another number of processes."""
    assert_same_state(found, expected)


def rows(place):
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def same_numbers(place, expected):
    """Every step stands once in metrics.jsonl, with the loss of the uninterrupted run."""
    found, wanted = ([(r["step"], r["loss"]) for r in rows(p)] for p in (place, expected))
    if found != wanted:
        raise Failed(f"metrics.jsonl differs: {len(found)} rows, {len(wanted)} expected")


def intact(place):
    """The step of the newest checkpoint, which must be whole."""
    step = newest(place)
    if not step:
        raise Failed("there is no checkpoint")
    folder = place / "checkpoints" / str(step)
    if not checksums.has_sums(folder) or checksums.damage(folder):
        raise Failed(f"the newest checkpoint is damaged: {checksums.damage(folder)}")
    state(place)
    return step


def last_words(said, sign="jssl: "):
    """The first line of the message for the user, without the places of this machine."""
    lines = [line for line in said.splitlines() if sign in line]
    if not lines or "Traceback" in said.split(lines[0])[-1]:
        raise Failed(f"no clear last message: {said[-600:]}")
    return lines[-1]
