"""`jssl doctor`: one page about the devices, the software and the job, to paste into an issue."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jssl import config as config_lib
from jssl.data.tfds_source import default_data_dir
from jssl.parallel.collectives import psum
from jssl.parallel.launcher import AXIS_NAME, Launcher, make_launcher
from jssl.run import build, versions
from jssl.run.writers import say

GIB = 2**30
SKEW = 5.0  # seconds between the clocks of two hosts, above which logs and locks mislead
LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 2 * GIB
TEXT = 2000  # bytes of a text that the processes exchange
REDUCED = 2**22  # float32 values of the timed all-reduce
_PREFIXES = ("JAX_", "XLA_", "TPU_", "LIBTPU_", "CUDA_", "NCCL_", "OMP_", "TFDS_", "MALLOC_",
             "PALLAS_")  # fmt: skip
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def run(folder: str | None = None) -> list[str]:
    """Prints the page, section by section: what comes last before a hang is the cause.

    Every process of a job must call it.

    Args:
        folder: a workdir or the folder of workdirs, whose disk is looked at too.

    Returns:
        The problems of all processes, also printed.
    """
    problems: list[str] = []
    sections: tuple[tuple[str, Callable[[], tuple[list[str], list[str]]]], ...] = (
        ("software", software),
        ("environment", lambda: (environment(os.environ), [])),
        ("host", host),
        ("disk", lambda: disks(folder)),
        ("devices", devices),
        ("job", job),
        ("all-reduce", all_reduce),
        ("train step", train_step),
    )
    say(f"jssl doctor, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    for title, section in sections:
        say(f"\n{title}")
        try:
            lines, problem = section()
        except Exception as error:  # whatever breaks is what the page is for
            first = next(iter(str(error).splitlines()), "")
            lines, problem = [], [f"{title}: {type(error).__name__}: {first}"]
        for line in lines:
            say(f"  {line}")
        problems += problem
    say("")
    problems = _of_all_processes(problems)
    for text in problems:
        say(f"PROBLEM {text}")
    if not problems:
        say("No problem.")
    return problems


def _of_all_processes(problems: list[str]) -> list[str]:
    """Returns the problems of every process, each once; those of another one name it."""
    if jax.process_count() == 1:
        return problems
    text = "\n".join(problems).encode()[:TEXT].ljust(TEXT)
    rows = [_text(row).splitlines() for row in _gathered(np.frombuffer(text, np.uint8))]
    own = rows[0]
    others = [f"process {i}: {line}" for i, row in enumerate(rows) for line in row
              if i and line not in own]  # fmt: skip
    return [*own, *others]


def _text(row: np.ndarray) -> str:
    return bytes(row).decode(errors="replace").rstrip()


def software() -> tuple[list[str], list[str]]:
    """Returns the versions, and a problem where the processes of a job differ."""
    ours = versions.collect()
    libraries = ", ".join(f"{name} {version}" for name, version in ours["libraries"].items())
    lines = [f"{libraries} (commit {ours['git']})",
             f"Python {ours['python']} on {platform.platform()}"]  # fmt: skip
    text = f"{libraries} {ours['git']} {ours['python']}"
    rows = _gathered(np.frombuffer(text.encode()[:TEXT].ljust(TEXT), np.uint8))
    others = [(i, _text(row)) for i, row in enumerate(rows)]
    wrong = [f"process {i} has other versions than process 0: {other}"
             for i, other in others if other != others[0][1]]  # fmt: skip
    return lines, wrong


def environment(variables: Mapping[str, str]) -> list[str]:
    """Returns the environment variables that JAX and its libraries read, without secrets.

    Example:
        >>> environment({'XLA_FLAGS': '--xla_dump_to=/home/me/x', 'HOME': '/home/me',
        ...              'JAX_API_KEY': 'abc'})
        ['XLA_FLAGS=--xla_dump_to=.../x', 'JAX_API_KEY=(set)']
    """
    lines = []
    for name, value in variables.items():
        if name.startswith(_PREFIXES):
            secret = any(word in name for word in _SECRET)
            lines.append(f"{name}={'(set)' if secret else versions.without_folders(value)}")
    return lines or ["no variable of JAX, XLA, TPU, CUDA or NCCL is set"]


def host() -> tuple[list[str], list[str]]:
    """Returns processors and memory of this host."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [f"{os.cpu_count()} processors, {usable} of them for this process"]
    problems = []
    memory = _memory()
    if memory:
        total, available = memory
        lines.append(f"memory {total / GIB:.1f} GiB, {available / GIB:.1f} GiB available")
        if available < LITTLE_MEMORY:
            problems.append(f"{available / GIB:.1f} GiB of memory are available on this host.")
    return lines, problems


def _memory() -> tuple[int, int] | None:
    """Returns total and available bytes of memory; None where /proc does not say."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return tuple(1024 * int(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        return None


def disks(folder: str | None) -> tuple[list[str], list[str]]:
    """Returns free space of the folders that a run uses; a workdir is tried with a small file."""
    lines: list[str] = []
    problems: list[str] = []
    places = {
        "--workdir": folder,
        "data sets": default_data_dir(),
        "temporary": tempfile.gettempdir(),
    }
    for name, place in places.items():
        if place is None:
            continue
        there = next(
            p for p in (Path(place).absolute(), *Path(place).absolute().parents) if p.exists()
        )
        free = shutil.disk_usage(there).free
        lines.append(f"{name}: {free / GIB:.1f} GiB free")
        if name == "--workdir":
            if free < LITTLE_DISK:
                problems.append(f"{free / GIB:.1f} GiB are free for --workdir: checkpoints of a "
                                "large network may not fit.")  # fmt: skip
            try:
                with tempfile.NamedTemporaryFile(dir=there) as file:
                    file.write(b"jssl doctor")
                    file.flush()
            except OSError as error:
                problems.append(f"--workdir cannot be written: {error.strerror}.")
    return lines, problems


def devices() -> tuple[list[str], list[str]]:
    """Returns the devices of the job and the memory of those of this process."""
    kinds = sorted({d.device_kind for d in jax.devices()})
    lines = [f"backend {jax.default_backend()}: {jax.device_count()} x {', '.join(kinds)}, "
             f"{jax.local_device_count()} in this process"]  # fmt: skip
    for device in jax.local_devices():
        try:
            stats = device.memory_stats() or {}
        except jax.errors.JaxRuntimeError:
            stats = {}
        if "bytes_limit" in stats:
            lines.append(f"{device}: {stats['bytes_limit'] / GIB:.2f} GiB for programs, "
                         f"{stats.get('bytes_in_use', 0) / GIB:.2f} in use")  # fmt: skip
    problems = []
    if len(kinds) > 1:
        problems.append(f"The devices are of several kinds: {', '.join(kinds)}.")
    if jax.default_backend() == "cpu" and "JAX_PLATFORMS" not in os.environ:
        problems += _unused(Path("/dev"))
    return lines, problems


def _unused(dev: Path) -> list[str]:
    """Returns a problem for hardware that this machine has, and JAX does not use."""
    if (dev / "nvidia0").exists():
        return ["An NVIDIA GPU is here, and JAX uses the CPU: type pip install 'jssl[cuda12]'."]
    if any(dev.glob("accel[0-9]*")):
        return ["A TPU is here, and JAX uses the CPU: type pip install 'jssl[tpu]'."]
    return []


def job() -> tuple[list[str], list[str]]:
    """Returns the processes of the job and the largest difference of their clocks."""
    count = jax.process_count()
    lines = [f"process {jax.process_index()} of {count}"]
    if count == 1:
        return lines, []
    multihost_utils.sync_global_devices("jssl doctor: clocks")
    now = time.time()
    clocks = _gathered(np.array([int(now), int(1e6 * (now % 1))], np.int32))
    seconds = (clocks[:, 0] - clocks[0, 0]) + 1e-6 * (clocks[:, 1] - clocks[0, 1])
    skew = float(np.ptp(seconds))
    lines.append(f"clocks differ by at most {skew:.3f} s")
    problems = []
    if skew > SKEW:
        problems.append(
            f"The clocks of the hosts differ by {skew:.1f} s: expected less than {SKEW:g}. Locks "
            "of workdirs and the order of logs depend on them."
        )
    return lines, problems


def _gathered(row: np.ndarray) -> np.ndarray:
    """Returns the rows [P,...] of all processes."""
    if jax.process_count() == 1:
        return row[None]
    return np.asarray(multihost_utils.process_allgather(row))


def all_reduce() -> tuple[list[str], list[str]]:
    """Sums over all devices of all processes, compares with the known sum, and times it."""
    count, local = jax.device_count(), jax.local_devices()
    place = {device.id: i for i, device in enumerate(jax.devices())}
    ids = np.array([place[device.id] + 1 for device in local], np.int32)
    total = jax.pmap(lambda x: psum(x, AXIS_NAME), axis_name=AXIS_NAME)
    sums, expected = _local(total(ids)), count * (count + 1) // 2
    if sums != [expected] * len(local):
        return [], [f"An all-reduce over {count} devices gave {sums}: expected {expected}."]
    lines = [f"over {count} device(s): the sum is right"]
    if count > 1:
        values = jax.pmap(lambda x: jnp.ones(REDUCED) * x)(ids)
        jax.block_until_ready(total(values))  # compiles
        started = time.monotonic()
        jax.block_until_ready(total(values))
        lines.append(f"{4 * REDUCED / 2**20:g} MiB: {1e3 * (time.monotonic() - started):.1f} ms")
    return lines, []


def _local(x: jax.Array) -> list[int]:
    """Returns the values on the devices of this process."""
    return [int(np.asarray(shard.data).ravel()[0]) for shard in x.addressable_shards]


def train_step() -> tuple[list[str], list[str]]:
    """Compiles and runs a step of SimCLR on four small pictures a device."""
    launcher = make_launcher("pmap")
    config, step, state = _small_run(launcher)
    blank = jax.device_get(build.blank_batch(config, 4 * jax.local_device_count()))
    pixels = np.random.default_rng(jax.process_index()).integers(0, 256, blank["image"].shape)
    batch = launcher.put_batch({**blank, "image": pixels.astype(np.uint8)})
    started = time.monotonic()
    state, metrics = step(state, batch, np.int32(0))
    jax.block_until_ready(metrics)
    compiled = time.monotonic() - started
    started = time.monotonic()
    state, metrics = step(state, batch, np.int32(1))
    jax.block_until_ready(metrics)
    seconds, loss = time.monotonic() - started, float(metrics["loss"])
    lines = [f"compiled in {compiled:.1f} s, a step takes {1e3 * seconds:.1f} ms, loss {loss:.3f}"]
    if not np.isfinite(loss):
        return lines, [f"The loss of a small train step is {loss}: expected a finite number."]
    return lines, []


def _small_run(launcher: Launcher) -> tuple[Any, Any, Any]:
    """Returns the config, the compiled step and the state of a very small run of SimCLR."""
    config = config_lib.base("simclr", preset="cifar")
    config_lib.smoke(config)
    config.batch_size = 4 * launcher.size
    lengths = {"num_examples": 100 * config.batch_size, "steps_per_epoch": 100}
    config.run.update(total_steps=10_000, **lengths)
    method, _ = build.make_method(config, axis_name=launcher.axis_name)
    state = launcher.init(lambda: build.first_state(config, method, 4))
    return config, launcher.compile_step(method.train_step), state


def exit_status(problems: list[str]) -> None:
    """Ends the process with status 1 where there are problems."""
    if problems:
        sys.exit(1)
