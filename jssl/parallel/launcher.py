"""The launcher: the launch mode decides how a per-device step runs on devices.

    pmap        `jax.pmap` over every device of every process (the default)
    shard_map   `jit(shard_map)` over a one-axis mesh of the same devices
    fsdp        `jit` over the same mesh; each device keeps a part of the parameters, optimiser
                state and averages (ZeRO-3), for networks whose state one device cannot hold
    jit         plain `jit` on one device, no batch axis
    vmap:N      N virtual replicas on one device: per-device statistics without the devices

All give the same state. A step takes `(state, batch, expected_step)`; the state has no device axis
and is replicated, except for leaves that `shard_map` and `fsdp` may split; the batch's leading axis
is split in device order.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl.errors import UserError, nearest
from jssl.parallel.collectives import tracing_fsdp
from jssl.parallel.nonfinite import guard
from jssl.state.shards import partition_specs, scattered, shardings
from jssl.types import Batch, Metrics, StepFn, TrainState

AXIS_NAME = "batch"
MODES = ("pmap", "shard_map", "fsdp", "jit", "vmap:N")
# Fields of a state that forward passes of a step read.
NETWORKS = ("params", "target", "teacher", "tokenizer")


class Launcher(NamedTuple):
    """Functions to initialise, feed and step a state in one launch mode.

    Attributes:
        mode: name of the launch mode.
        axis_name: of the batch axis, for the method's `make`; None under `jit` and `fsdp`.
        size: number of (virtual) devices along the batch axis, over all processes.
        sharding: of a replicated leaf.
        shardings: `(state or its shapes) -> the same tree of shardings`; see `jssl.state.shards`.
        init: `(make_state: () -> State) -> State`, with its sharding.
        compile_step: `(train_step) -> (state, batch, expected) -> (state, metrics)`; donates state.
        put_batch: this process's numpy share of a batch -> input of the compiled step.
        as_global: state -> the same state as arrays over all processes, for checkpoints and
            embeddings; under `pmap` each process has its own copy.
        compile_embed: `(embed) -> (state, images [B,...]) -> (features, intermediates)`, or another
            function of a state and a tree of arrays; every process passes the whole batch and gets
            the whole result.
        split: this process's numpy share of a batch -> the whole batch as arrays sharded over all
            devices along the leading axis, for a plain `jit` of a global state.
        abstract_batch: shapes of the GLOBAL batch -> ShapeDtypeStructs of the compiled step's
            input if all devices belong to one process: for compiling without devices.
    """

    mode: str
    axis_name: str | None
    size: int
    sharding: Any
    shardings: Callable[[TrainState], Any]
    init: Callable[[Callable[[], TrainState]], TrainState]
    compile_step: Callable[[StepFn], Callable[..., tuple[TrainState, Metrics]]]
    put_batch: Callable[[Batch], Batch]
    as_global: Callable[[TrainState], TrainState]
    compile_embed: Callable[..., Callable[..., Any]]
    split: Callable[[Mapping[str, Any]], Batch]
    abstract_batch: Callable[[Batch], Batch]


def make_launcher(mode: str, *, devices: list[Any] | None = None) -> Launcher:
    """Returns the launcher of a mode.

    Args:
        mode: 'pmap', 'shard_map', 'fsdp', 'jit' or 'vmap:N'.
        devices: the devices of the batch axis, all by default; `jit` and `vmap:N` use the first.

    Returns:
        A `Launcher`.

    Raises:
        UserError: unknown mode, N that is not a positive integer, or a one-device mode in a job
            of several processes.

    Example:
        >>> make_launcher('vmap:4').size
        4
    """
    devices = list(jax.devices() if devices is None else devices)
    if mode == "pmap":
        return _pmap_launcher(devices)
    if mode == "shard_map":
        return _shard_map_launcher(devices)
    if mode == "fsdp":
        return _fsdp_launcher(devices)
    if mode != "jit" and not mode.startswith("vmap:"):
        raise UserError(f"Unknown launch mode '{mode}': {nearest(mode, MODES)}.")
    if jax.process_count() > 1:
        raise UserError(
            f"Launch mode '{mode}' uses one device, but this job has {jax.process_count()} "
            "processes. Type --config.launch=pmap or --config.launch=shard_map."
        )
    if mode == "jit":
        return _jit_launcher(devices[0])
    replicas = mode.removeprefix("vmap:")
    if not replicas.isdigit() or int(replicas) < 1:
        raise UserError(f"Launch mode '{mode}': expected vmap:N with N a positive integer.")
    return _vmap_launcher(int(replicas), devices[0])


def placed(launcher: Launcher, state: TrainState) -> TrainState:
    """Returns a state with the launcher's shardings; leaves that have them are not copied."""

    def one(x: jax.Array, where: Any) -> jax.Array:
        same = x.sharding.is_equivalent_to(where, x.ndim)
        return x if same else jax.device_put(x, where)

    return jax.tree.map(one, state, launcher.shardings(state))


def run_once(make_state: Callable[[], TrainState], where: Any = None) -> TrainState:
    """Computes a first state.

    On a CPU, LLVM takes longer to optimise this program than the program takes to run.

    Args:
        make_state: traceable, without arguments.
        where: a sharding, or a pytree of them like the state; None: the default device.

    Returns:
        What `make_state` returns.
    """
    shardings = jax.tree.leaves(where)
    devices = shardings[0].device_set if shardings else jax.devices()
    platform = next(iter(devices)).platform
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    return jax.jit(make_state, out_shardings=where, compiler_options=options)()


def check_batch_size(batch_size: int, launcher: Launcher) -> None:
    """Checks that a global batch can be split equally over devices and processes.

    Raises:
        UserError: names the nearest valid sizes.
    """
    processes = jax.process_count()
    unit = int(np.lcm(launcher.size, processes))
    if batch_size < 1 or batch_size % unit:
        near = max(unit, batch_size // unit * unit)
        raise UserError(
            f"Global batch size {batch_size} cannot be split over {launcher.size} devices in "
            f"{processes} process(es): expected a multiple of {unit}. "
            f"Type --config.batch_size={near} or --config.batch_size={near + unit}."
        )


def _by_replica(batch: Batch, replicas: int) -> Batch:
    """Splits the leading axis: [B,...] -> [replicas, B/replicas, ...]."""
    return jax.tree.map(lambda x: x.reshape(replicas, -1, *x.shape[1:]), batch)


def _abstract(batch: Batch, replicas: int | None = None, sharding: Any = None) -> Batch:
    """Returns the shapes of a global batch as input of a step, by replica or with a sharding."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        shape = x.shape if replicas is None else (replicas, x.shape[0] // replicas, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, batch)


def _global_copy(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Converts a replicated array of this process to one of all devices, without a copy."""
    if x.sharding.device_set == sharding.device_set:
        return x
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global_copy(jax.random.key_data(x), sharding))
    parts = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)


def _mesh_embed(mesh: Mesh) -> Callable[..., Callable[..., Any]]:
    """Compiles `embed` with images split over the mesh and everything else replicated."""
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(AXIS_NAME))

    def compile_embed(embed):
        compiled = jax.jit(embed, out_shardings=replicated)

        def run(state, images):
            count = len(jax.tree.leaves(images)[0])

            def place(x):
                padded = np.concatenate([x, np.repeat(x[-1:], -count % mesh.size, axis=0)])
                return jax.make_array_from_callback(padded.shape, split, padded.__getitem__)

            outputs = compiled(state, jax.tree.map(place, images))
            return jax.tree.map(lambda x: x[:count], outputs)

        return run

    return compile_embed


def _everywhere(sharding: Any) -> Callable[[TrainState], Any]:
    return lambda state: jax.tree.map(lambda _: sharding, state)


def _mesh_split(mesh: Mesh) -> Callable[[Mapping[str, Any]], Batch]:
    sharding = NamedSharding(mesh, PartitionSpec(AXIS_NAME))
    return lambda batch: jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def _pmap_launcher(devices: list[Any]) -> Launcher:
    mesh = Mesh(np.array(devices), (AXIS_NAME,))
    replicated = NamedSharding(mesh, PartitionSpec())
    local = [d for d in devices if d.process_index == jax.process_index()]

    def compile_step(train_step):
        return jax.pmap(
            guard(train_step),
            axis_name=AXIS_NAME,
            in_axes=(None, 0, None),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )

    return Launcher(
        "pmap",
        AXIS_NAME,
        len(devices),
        replicated,
        _everywhere(replicated),
        lambda make_state: run_once(make_state, replicated),
        compile_step,
        lambda batch: _by_replica(batch, len(local)),
        lambda state: jax.tree.map(lambda x: _global_copy(x, replicated), state),
        _mesh_embed(mesh),
        _mesh_split(mesh),
        lambda batch: _abstract(batch, len(devices)),
    )


def _shard_map_launcher(devices: list[Any]) -> Launcher:
    mesh = Mesh(np.array(devices), (AXIS_NAME,))
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS_NAME)
    replicated = NamedSharding(mesh, everywhere)

    def init(make_state):
        return run_once(make_state, shardings(jax.eval_shape(make_state), mesh))

    def compile_step(train_step):
        def step(state, batch, expected):
            specs = partition_specs(state, mesh)
            # check_vma=True would already sum the gradients of replicated parameters: with the
            # pmean of `mean_value_and_grad` they would come out n times too large.
            mapped = jax.shard_map(
                guard(train_step),
                mesh=mesh,
                in_specs=(specs, split, everywhere),
                out_specs=(specs, everywhere),
                check_vma=False,
            )
            return mapped(state, batch, expected)

        return jax.jit(step, donate_argnums=0)

    put_batch = _mesh_split(mesh)
    return Launcher(
        "shard_map",
        AXIS_NAME,
        len(devices),
        replicated,
        lambda state: shardings(state, mesh),
        init,
        compile_step,
        put_batch,
        lambda state: state,
        _mesh_embed(mesh),
        put_batch,
        lambda batch: _abstract(batch, sharding=NamedSharding(mesh, split)),
    )


def _fsdp_launcher(devices: list[Any]) -> Launcher:
    """The step sees the global batch and no axis; the compiler adds the collectives.

    Networks that the forward passes read are gathered at the start of a step, so that the compiler
    splits the work along the batch and not along channels. Their gradients are needed in parts
    only, as the optimiser's state is.
    """
    mesh = Mesh(np.array(devices), (AXIS_NAME,))
    replicated = NamedSharding(mesh, PartitionSpec())

    def init(make_state):
        return run_once(make_state, scattered(jax.eval_shape(make_state), mesh))

    def compile_step(train_step):
        own = getattr(train_step, "deferred", train_step)

        def gathered(state, batch):
            networks = {k: v for k, v in vars(state).items() if k in NETWORKS}
            networks = jax.lax.with_sharding_constraint(networks, replicated)
            with tracing_fsdp(replicated):
                return own(state.replace(**networks), batch)

        def step(state, batch, expected):
            new, metrics = guard(gathered)(state, batch, expected)
            return jax.lax.with_sharding_constraint(new, scattered(new, mesh)), metrics

        return jax.jit(step, donate_argnums=0)

    put_batch = _mesh_split(mesh)
    return Launcher(
        "fsdp",
        None,
        len(devices),
        replicated,
        lambda state: scattered(state, mesh),
        init,
        compile_step,
        put_batch,
        lambda state: state,
        _mesh_embed(mesh),
        put_batch,
        lambda batch: _abstract(batch, sharding=NamedSharding(mesh, PartitionSpec(AXIS_NAME))),
    )


def _one_device(device: Any) -> tuple[Any, Callable, Callable]:
    sharding = jax.sharding.SingleDeviceSharding(device)

    def init(make_state):
        return run_once(make_state, sharding)

    def compile_embed(embed):
        return jax.jit(embed)

    return sharding, init, compile_embed


def _jit_launcher(device: Any) -> Launcher:
    sharding, init, compile_embed = _one_device(device)

    def compile_step(train_step):
        return jax.jit(guard(train_step), donate_argnums=0)

    def same(x):
        return x

    return Launcher(
        "jit",
        None,
        1,
        sharding,
        _everywhere(sharding),
        init,
        compile_step,
        same,
        same,
        compile_embed,
        same,
        lambda batch: _abstract(batch, sharding=sharding),
    )


def _vmap_launcher(replicas: int, device: Any) -> Launcher:
    sharding, init, compile_embed = _one_device(device)

    def compile_step(train_step):
        # out_axes=None also checks that the state is equal on all replicas.
        mapped = jax.vmap(
            guard(train_step), in_axes=(None, 0, None), out_axes=None, axis_name=AXIS_NAME
        )
        return jax.jit(mapped, donate_argnums=0)

    return Launcher(
        f"vmap:{replicas}",
        AXIS_NAME,
        replicas,
        sharding,
        _everywhere(sharding),
        init,
        compile_step,
        lambda batch: _by_replica(batch, replicas),
        lambda state: state,
        compile_embed,
        lambda batch: batch,
        lambda batch: _abstract(batch, replicas, sharding),
    )
