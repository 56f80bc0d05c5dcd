"""Descriptions of absent devices for the compiler."""

import importlib.util
import os
from typing import Any

from jssl.compile.hardware import CHIPS, GPU_TARGETS, Topology, parse_topology
from jssl.errors import UserError

_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is in use, so several processes may compile
}
_FLAGS = {
    # Without a device no kernel is timed, and the tiles of some products are not found by rule.
    "cuda": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
    "cpu": "--xla_force_host_platform_device_count={n}",
}


def prepare(text: str) -> Topology:
    """Sets the environment variables of the compilers; call it before any use of a device.

    Args:
        text: the value of --topology.

    Raises:
        UserError: an invalid topology, or a compiler that is not installed.
    """
    topology = parse_topology(text)
    platform = CHIPS[topology.chip].platform
    check_installed(platform)
    if platform == "tpu":
        for key, value in _TPU.items():
            os.environ.setdefault(key, value)
    if platform == "cuda":
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    flag = _FLAGS.get(platform, "").format(n=topology.shape[0])
    flags = os.environ.get("XLA_FLAGS", "")
    if flag and flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    import jax

    # The host's part runs on the CPU, whatever hardware this machine has.
    jax.config.update("jax_platforms", "cpu")
    return topology


def check_installed(platform: str) -> None:
    """Raises UserError, with the pip extra to install, if a platform's compiler is missing."""
    modules = {"tpu": ["libtpu"], "cuda": ["jax_cuda12_plugin", "jax_cuda13_plugin"], "cpu": []}
    if platform == "tpu" and os.environ.get("TPU_LIBRARY_PATH"):
        return
    plugins = modules[platform]
    if plugins and not any(importlib.util.find_spec(name) for name in plugins):
        extra = {"tpu": "fit-tpu", "cuda": "fit-gpu"}[platform]
        raise UserError(
            f"Compiling for {platform.upper()} needs its compiler: {' or '.join(plugins)} is not "
            f"installed. Type pip install 'jssl[{extra}]'; it runs on any Linux machine, no "
            "accelerator is needed."
        )


def check_effort(effort: float, topology: Topology) -> None:
    """Raises UserError for an effort that is not in [-1, 0], or not 0 and not for a TPU.

    Example:
        >>> check_effort(-1.0, parse_topology('v5e:4x8'))
    """
    if not -1 <= effort <= 0:
        raise UserError(f"--effort expects a number from -1 to 0, found {effort:g}.")
    if effort and CHIPS[topology.chip].platform != "tpu":
        raise UserError(
            f"--effort={effort:g} is for TPUs, found --topology={topology.text}. Leave out "
            "--effort."
        )


def open_devices(topology: Topology) -> list[Any]:
    """Returns the devices of a topology for a launcher: to compile for, not to run on.

    Raises:
        UserError: a shape that does not exist for this chip.
    """
    import jax
    from jax.experimental import topologies

    platform, shape = CHIPS[topology.chip].platform, topology.shape
    if platform == "cpu":
        cpus = jax.devices("cpu")
        if len(cpus) < shape[0]:
            raise UserError(
                f"--topology={topology.text}: this process has {len(cpus)} CPU device(s). Type "
                f"XLA_FLAGS={_FLAGS['cpu'].format(n=shape[0])} before the command."
            )
        return cpus[: shape[0]]
    try:
        if platform == "cuda":
            return topologies.get_topology_desc(
                platform="cuda",
                topology=f"1x1x{shape[0]}",
                target_config=GPU_TARGETS[topology.chip],
            ).devices
        chip = CHIPS[topology.chip]
        options: dict[str, Any] = {"chip_config_name": chip.variant} if chip.variant else {}
        if max(shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        name = f"{chip.compiler_name or topology.chip}:{'x'.join(map(str, shape))}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # the plugins raise many types
        raise UserError(
            f"The compiler knows no topology {topology.text}: {str(error).splitlines()[0]}"
        ) from None
