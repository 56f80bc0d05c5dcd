"""The parts of a `refresh` that clusters: a pass over the data set, and k-means over devices.

All processes run these in lockstep. Arrays that are made here lie where the state lies, whole on
every device; what is as long as the data set is worked on in shares.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jssl.state import KMeansResult, kmeans
from jssl.types import Array, Batch, TrainState

Batches = Callable[[], Iterable[Batch]]
# Folded into a state's key for what is drawn between steps; no step has this number.
REFRESH = np.uint32(0xFFFFFFFF)


def refresh_key(state: TrainState) -> Array:
    """Returns the key of the refresh before step `state.step`."""
    return jax.random.fold_in(jax.random.fold_in(state.key, REFRESH), state.step)


def jit_like_state(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `fn(state, ...)`; its results have the sharding of the state."""

    @functools.cache
    def compiled(sharding: Sharding) -> Callable[..., Any]:
        return jax.jit(fn, out_shardings=sharding)

    return lambda state, *arrays: compiled(state.step.sharding)(state, *arrays)


def place(array: np.ndarray | Array, sharding: Sharding) -> Array:
    """Puts a numpy array that every process has onto the devices of a sharding."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


class Rows(NamedTuple):
    """The results of a pass over the data set, by the examples' index.

    Attributes:
        values: float32 [M,...]; 0 where there is no value.
        labels: int32 [M], -1 without one.
        present: bool [M], False for a picture that cannot be used.
    """

    values: np.ndarray
    labels: np.ndarray
    present: np.ndarray


def collector(fn: Callable[..., Array]) -> Callable[..., Rows]:
    """Turns a function of a batch into one of the whole data set.

    Args:
        fn: `(state, batch, *arrays) -> [N,...]`, pure.

    Returns:
        `(state, batches, num_examples, *arrays) -> Rows`, compiled once.
    """

    def whole(state: TrainState, batch: Batch, *arrays: Any) -> tuple[Array, ...]:
        return fn(state, batch, *arrays), batch["label"], batch["index"], batch["valid"]

    compiled = jit_like_state(whole)

    def collect(state: TrainState, batches: Batches, num_examples: int, *arrays: Any) -> Rows:
        rows: Rows | None = None
        pending: Any = None

        def take(output: tuple[Array, ...]) -> None:
            nonlocal rows
            values, labels, index, valid = map(np.asarray, output)
            if rows is None:
                rows = Rows(
                    np.zeros((num_examples, *values.shape[1:]), np.float32),
                    np.full(num_examples, -1, np.int32),
                    np.zeros(num_examples, bool),
                )
            index = index[valid]
            rows.values[index], rows.labels[index] = values[valid], labels[valid]
            rows.present[index] = True

        for batch in batches():
            output = compiled(state, batch, *arrays)
            # The host reads one batch while the device is at work on the next.
            if pending is not None:
                take(pending)
            pending = output
        take(pending)
        assert rows is not None  # a pass has batches
        return rows

    return collect


def cluster(key: Array, points: np.ndarray, sharding: Sharding, **options: Any) -> KMeansResult:
    """Runs k-means on points of the host, each device with its share of them.

    Args:
        key: PRNG key, where the state lies.
        points: float32 [N,D].
        sharding: the state's.
        **options: of `jssl.state.kmeans`.

    Returns:
        The `KMeansResult` as numpy arrays, the same on every process.
    """
    short = -len(points) % sharding.num_devices
    mask = np.arange(len(points) + short) < len(points)
    padded = np.concatenate([points, np.zeros((short, points.shape[1]), np.float32)])
    run, split = _compiled(sharding, tuple(sorted(options.items())))
    result = run(key, place(padded, split), place(mask, split))
    result = jax.tree.map(np.asarray, result)
    return result._replace(assignments=result.assignments[: len(points)])


@functools.lru_cache(maxsize=16)
def _compiled(sharding: Sharding, options: tuple[tuple[str, Any], ...]) -> Any:
    if not isinstance(sharding, NamedSharding):

        def unsplit(key: Array, points: Array, mask: Array) -> KMeansResult:
            return kmeans(key, points, mask=mask, **dict(options))

        return jax.jit(unsplit), sharding
    (axis_name,) = sharding.mesh.axis_names
    everywhere, split = PartitionSpec(), PartitionSpec(axis_name)

    def share(key: Array, points: Array, mask: Array) -> KMeansResult:
        return kmeans(key, points, mask=mask, axis_name=axis_name, **dict(options))

    places = KMeansResult._make([everywhere, split, everywhere, everywhere, everywhere])
    mapped = jax.shard_map(
        share,
        mesh=sharding.mesh,
        in_specs=(everywhere, split, split),
        out_specs=places,
        check_vma=False,
    )
    return jax.jit(mapped, out_shardings=sharding), NamedSharding(sharding.mesh, split)
