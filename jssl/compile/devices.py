"""Devices that are not there: what a compiler needs to know of them, and nothing else."""

import importlib.util
import os
from typing import Any

from jssl.compile.hardware import CHIPS, GPU_TARGETS, Topology, parse_topology
from jssl.errors import UserError

_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is held, so several may compile at once
}
_FLAGS = {
    "cuda": "--xla_gpu_autotune_level=0",
    "cpu": "--xla_force_host_platform_device_count={n}",
}


def prepare(text: str) -> Topology:
    """Sets what the compilers read at their start: before the first use of a device.

    Args:
        text: the value of --topology.

    Raises:
        UserError: a name that is no topology, or a compiler that is not installed.
    """
    topology = parse_topology(text)
    platform = CHIPS[topology.chip].platform
    check_installed(platform)
    if platform == "tpu":
        for key, value in _TPU.items():
            os.environ.setdefault(key, value)
    if platform == "cuda":
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    word = _FLAGS.get(platform, "").format(n=topology.shape[0])
    flags = os.environ.get("XLA_FLAGS", "")
    if word and word.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {word}".strip()
    import jax

    # Whatever hardware this machine has, the host's part of the work is done by the CPU.
    jax.config.update("jax_platforms", "cpu")
    return topology


def check_installed(platform: str) -> None:
    """Refuses a platform whose compiler is not installed, naming the extra."""
    modules = {"tpu": ["libtpu"], "cuda": ["jax_cuda12_plugin", "jax_cuda13_plugin"], "cpu": []}
    if platform == "tpu" and os.environ.get("TPU_LIBRARY_PATH"):
        return
    wanted = modules[platform]
    if wanted and not any(importlib.util.find_spec(name) for name in wanted):
        extra = {"tpu": "fit-tpu", "cuda": "fit-gpu"}[platform]
        raise UserError(
            f"Compiling for {platform.upper()} needs its compiler: {' or '.join(wanted)} is not "
            f"installed. Type pip install 'jssl[{extra}]'; it runs on any Linux machine, no "
            "accelerator is needed."
        )


def open_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, as a launcher takes them; they can be compiled for, not run on.

    Raises:
        UserError: a shape that the chip's machines do not come in.
    """
    import jax
    from jax.experimental import topologies

    platform, shape = CHIPS[topology.chip].platform, topology.shape
    if platform == "cpu":
        found = jax.devices("cpu")
        if len(found) < shape[0]:
            raise UserError(
                f"--topology={topology.text}: this process has {len(found)} CPU device(s). Type "
                f"XLA_FLAGS={_FLAGS['cpu'].format(n=shape[0])} before the command."
            )
        return found[: shape[0]]
    try:
        if platform == "cuda":
            return topologies.get_topology_desc(
                platform="cuda",
                topology=f"1x1x{shape[0]}",
                target_config=GPU_TARGETS[topology.chip],
            ).devices
        lone = {"chips_per_host_bounds": (1, 1, 1)} if max(shape) == 1 else {}
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology.text, **lone
        ).devices
    except Exception as error:  # the plugins raise whatever they like
        raise UserError(
            f"The compiler knows no topology {topology.text}: {str(error).splitlines()[0]}"
        ) from None
