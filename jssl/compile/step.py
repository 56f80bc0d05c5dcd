"""Compiles the train step of a config for absent devices, and reads the costs."""

import math
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jssl import data, methods
from jssl.compile import flops as flops_lib
from jssl.compile import hlo, roofline
from jssl.compile.hardware import CHIPS, Topology
from jssl.data.tfds_source import CATALOGUE
from jssl.errors import UserError
from jssl.parallel.launcher import check_batch_size, make_launcher
from jssl.run import build

# Sizes of train splits, for machines without the data: ILSVRC 2012, CIFAR's papers...
EXAMPLES = {"imagenet2012": 1_281_167, "cifar10": 50_000, "cifar100": 50_000, "stl10": 100_000,
            "imagenette": 9_469, "imagenette320": 9_469}  # fmt: skip
# Of PASCAL VOC: pictures of the default train split, trainval of 2007 and 2012, and train_aug.
VOC_EXAMPLES, VOC_CLASSES = {"boxes": 16_551, "masks": 10_582}, 20


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
        memory: as returned by `roofline.memory`.
        flops, bytes_accessed: of one device in one step; None where it did not compile.
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


def lengths(config: ConfigDict, examples: int) -> None:
    """Fills in `config.run` and `num_classes` as a run does, from the data or from `EXAMPLES`.

    Raises:
        UserError: absent data of unknown size, or fewer examples than a batch.
    """
    section, classes = config[config.method], 0
    if not examples or section.get("num_classes") == 0:
        kind = methods.get(config.method).data.dense
        try:
            source = (
                data.make_dense_source(config.data, "train", kind)
                if kind
                else data.make_source(config.data, "train")
            )
            examples, classes = examples or len(source), source.num_classes
        except UserError:
            known = EXAMPLES.get(config.data.name, 0)
            if kind and config.data.name == "voc":
                known, classes = VOC_EXAMPLES[kind], VOC_CLASSES
            if not (examples or known):
                raise
            examples = examples or known
            name = config.data.name.partition(":")[0]  # without a version
            if name in CATALOGUE:
                classes = CATALOGUE[name].num_classes
    if section.get("num_classes") == 0:
        section.num_classes = classes
        if not classes and methods.get(config.method).labels == "required":
            raise UserError(
                f"Method '{config.method}' needs the number of classes, and data set "
                f"'{config.data.name}' is not here. Type --config.{config.method}.num_classes=N."
            )
    advice = "Type --examples=N, or --config.batch_size=N with a smaller N."
    build.count_lengths(config, examples, advice=advice)


def make(config: ConfigDict, devices: list[Any]) -> tuple[Any, Any, tuple[Any, ...]]:
    """Returns the launcher, the step as in training, and the step's abstract arguments.

    Raises:
        UserError: a batch that cannot be split over the devices, before compiling.
    """
    launcher = make_launcher(config.launch, devices=devices)
    if len(devices) > 1 and config.launch not in ("pmap", "shard_map"):
        raise UserError(
            f"Launch mode '{config.launch}' uses one device, the topology has {len(devices)}. "
            "Type --config.launch=pmap, or a topology of one device."
        )
    check_batch_size(config.batch_size, launcher)
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


def compile_step(config: ConfigDict, topology: Topology, devices: list[Any]) -> Compiled:
    """Compiles one step and reads memory, FLOPs, bytes and collectives from the result."""
    _, step, arguments = make(config, devices)
    lowered = step.lower(*arguments)
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = out_of_memory(topology.chip, str(error))
        if memory is None:
            raise
        return Compiled(memory, None, None, {}, time.monotonic() - started, "")
    seconds = time.monotonic() - started
    memory = roofline.memory(topology.chip, compiled.memory_analysis())
    text = compiled.as_text()
    costs = (compiled.cost_analysis() or {}) if CHIPS[topology.chip].platform != "cuda" else {}
    flops, accessed = costs.get("flops"), costs.get("bytes accessed")
    if not flops or flops < 0:
        flops = float(flops_lib.count(step, *arguments))
    if not accessed or accessed < 0:
        accessed = float(hlo.touched_bytes(text))
    return Compiled(memory, flops, accessed, hlo.collectives(text), seconds, text)


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def out_of_memory(chip: str, message: str) -> dict[str, Any] | None:
    """Returns the memory verdict in a compiler's out-of-memory message; None for other errors.

    Example:
        >>> memory = out_of_memory('v5e', 'Ran out of memory in memory space hbm. Used 20.00G of '
        ...                        '15.75G hbm. Exceeded hbm capacity by 4.25G.')
        >>> memory['fits'], memory['spare'] / 2**30
        (False, -4.25)
    """
    match = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
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
