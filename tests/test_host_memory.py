"""Freed memory of the host stays in the process on a CPU."""

import subprocess
import sys

import pytest

from jssl.run import host_memory

STEPS = """
import resource, sys
if sys.argv[1] == "keep":
    from jssl.run import host_memory
    assert host_memory.keep_freed()
import jax
f = jax.jit(lambda x: jax.numpy.cumsum(jax.numpy.cumsum(x)[::-1]).sum())
x = jax.numpy.ones(5_000_000)
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(f(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def faults(how):
    command = [sys.executable, "-c", STEPS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_the_next_step_finds_the_memory_of_the_last_one():
    assert faults("keep") < faults("as it is") / 10


def test_a_host_with_an_accelerator_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "accel0").touch()
    assert not host_memory.keep_freed(tmp_path)
