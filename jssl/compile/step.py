"""Compiles the train step of a config for absent devices, and reads the costs."""

import math
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jssl.compile import flops as flops_lib
from jssl.compile import hlo, roofline
from jssl.compile.hardware import CHIPS, Topology
from jssl.errors import UserError
from jssl.parallel.launcher import check_batch_size, make_launcher
from jssl.parallel.microbatches import accumulate_of, check_microbatches
from jssl.run import build


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
        memory: as returned by `roofline.memory`.
        flops: of one device in one step; None where it did not compile.
        bytes_accessed: of the device's memory in one step, an upper bound; None likewise.
        collectives: kind -> `hlo.Collective`.
        seconds: compile time.
        text: HLO of the compiled module.
    """

    memory: dict[str, Any]
    flops: float | None
    bytes_accessed: float | None
    collectives: dict[str, hlo.Collective]
    seconds: float
    text: str


def set_other_runs(config: ConfigDict, teacher: ConfigDict | None) -> None:
    """Sets, in place, what a step needs of its teacher or tokenizer; no weights are read.

    Args:
        config: the whole config, with `num_classes`.
        teacher: config of the teacher of a distilled run, in place of its workdir.

    Raises:
        UserError: a teacher that is missing, or that this config does not use.
    """
    distilled = config.method == "deit" and config.deit.distillation != "none"
    if teacher is None:
        if distilled and not Path(config.deit.teacher, "config.json").exists():
            raise UserError(
                f"deit.distillation='{config.deit.distillation}' has a teacher, and "
                f"config.deit.teacher='{config.deit.teacher}' is not a workdir on this machine. "
                "Type --teacher=CONFIG of the teacher, for example "
                "--teacher=configs/supervised_imagenet.py."
            )
        tokenizer = config.beit.tokenizer if config.method == "beit" else ""
        if distilled or (tokenizer and Path(tokenizer, "config.json").exists()):
            build.resolve(config)  # an absent tokenizer has the sizes in config.beit
        return
    if not distilled:
        raise UserError(
            "--teacher is of a deit run with distillation, found a config of method "
            f"'{config.method}' without one. Leave out --teacher."
        )
    section = teacher[teacher.method]
    if "num_classes" not in section:
        raise UserError(
            f"--teacher is a config of method '{teacher.method}', which has no classifier: type "
            "for example --teacher=configs/supervised_imagenet.py."
        )
    section.num_classes = config.deit.num_classes
    config.deit.teacher_config = teacher.to_json()


def make(config: ConfigDict, devices: list[Any]) -> tuple[Any, Any, tuple[Any, ...]]:
    """Returns the launcher, the step as in training, and the step's abstract arguments.

    Raises:
        UserError: a batch that cannot be split over the devices, before compiling.
    """
    launcher = make_launcher(config.launch, devices=devices)
    if len(devices) > 1 and config.launch not in ("pmap", "shard_map", "fsdp"):
        raise UserError(
            f"Launch mode '{config.launch}' uses one device, the topology has {len(devices)}. "
            "Type --config.launch=pmap, or a topology of one device."
        )
    check_batch_size(config.batch_size, launcher)
    check_microbatches(accumulate_of(config), batch_size=config.batch_size, devices=launcher.size)
    method, _ = build.make_method(config, axis_name=launcher.axis_name)
    size = config.batch_size // launcher.size
    state = jax.eval_shape(lambda: build.first_state(config, method, size))
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        launcher.shardings(state),
    )
    batch = jax.eval_shape(lambda: build.blank_batch(config, config.batch_size))
    arguments = (state, launcher.abstract_batch(batch), jax.ShapeDtypeStruct((), jnp.int32))
    return launcher, launcher.compile_step(method.train_step), arguments


def compile_step(
    config: ConfigDict, topology: Topology, devices: list[Any], *, effort: float = 0.0
) -> Compiled:
    """Compiles one step and reads memory, FLOPs, bytes and collectives from the result."""
    _, step, arguments = make(config, devices)
    result = compiled(step.lower(*arguments), topology, effort=effort)
    if result.flops == 0:
        result = result._replace(flops=float(flops_lib.count(step, *arguments)))
    return result


def compiled(lowered: Any, topology: Topology, *, effort: float = 0.0) -> Compiled:
    """Compiles a lowered step; `flops` is 0 where the compiler does not tell."""
    started = time.monotonic()
    try:
        module = lowered.compile({"exec_time_optimization_effort": effort} if effort else None)
    except jax.errors.JaxRuntimeError as error:
        memory = out_of_memory(topology.chip, str(error))
        if memory is None:
            raise
        return Compiled(memory, None, None, {}, time.monotonic() - started, "")
    seconds = time.monotonic() - started
    memory = roofline.memory(topology.chip, module.memory_analysis())
    text = module.as_text()
    costs = (module.cost_analysis() or {}) if CHIPS[topology.chip].platform != "cuda" else {}
    # Both are upper bounds: the compiler's counts what is touched on the chip too, ours all of an
    # operand of which a kernel reads a part.
    counts = (float(hlo.touched_bytes(text)), costs.get("bytes accessed", 0.0))
    accessed = min(count for count in counts if count > 0)
    flops = max(0.0, costs.get("flops", 0.0))
    return Compiled(memory, flops, accessed, hlo.collectives(text), seconds, text)


# The two forms of the TPU compiler's message; the second counts the temporaries alone.
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_TEMPORARIES = re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def out_of_memory(chip: str, message: str) -> dict[str, Any] | None:
    """Returns the memory verdict in a compiler's out-of-memory message; None for other errors.

    Example:
        >>> memory = out_of_memory('v5e', 'Ran out of memory in memory space hbm. Used 20.00G of '
        ...                        '15.75G hbm. Exceeded hbm capacity by 4.25G.')
        >>> memory['fits'], memory['spare'] / 2**30
        (False, -4.25)
    """
    match = _USED.search(message) or _TEMPORARIES.search(message)
    if match is None:
        return None
    total = int(float(match[1]) * _UNITS[match[2]])
    return roofline.judge(chip, total, {})


def least_bytes(config: ConfigDict, devices: list[Any]) -> dict[str, int]:
    """Returns the parameter count and the bytes of one all-reduce of the gradients."""
    _, _, (state, _, _) = make(config, devices)
    leaves = jax.tree.leaves(state.params)
    count = sum(math.prod(x.shape) for x in leaves)
    return {"parameters": count, "gradient_bytes": 4 * count}
