"""k-means over points distributed over devices, in blocks.

Lloyd's algorithm. No N x k array is made: the scores |c|^2 / 2 - x.c are computed and used block by
block. Every device holds its share of the points and all centroids; sizes, sums and the objective
are summed over devices.

ImageNet, M = 1,281,167, D = 256, k = 10,000, 20 iterations, blocks of 1,024, compiled ahead of time
for 32 TPU v5e chips (without hardware), bytes a chip: arguments 41.0 MB, results 10.4 MB, other
buffers 1.3 MB of the 16 GB; a block's scores are 41 MB, on the chip. A product of all points and
centroids is 2 M D k = 6.56 TFLOP. An iteration takes two, for scores and sums (one on CPU, which
scatters the sums), and the last assignment one: 269 TFLOP, 8.4 a chip, in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.errors import UserError, nearest
from jssl.parallel import collectives
from jssl.state import empty_clusters
from jssl.state._blocks import scan_blocks
from jssl.state.queue import unit_rows
from jssl.types import Array

EMPTY = ("perturb", "donor", "keep")


class KMeansResult(NamedTuple):
    """Result of `kmeans`; all but the assignments is equal on every device.

    Attributes:
        centroids: float32 [k,D].
        assignments: int32 [N], the nearest centroid of each point of this device; -1 where the
            mask is False.
        objective: float32 [iterations + 1], the sum of squared distances to the nearest centroid
            before each iteration, and finally to the returned ones.
        sizes: int32 [k], points of each cluster by `assignments`, over all devices.
        empty: int32 [iterations + 1], the number of empty clusters of those assignments; the
            last ones are not repaired.
    """

    centroids: Array
    assignments: Array
    objective: Array
    sizes: Array
    empty: Array


def kmeans(
    key: Array,
    points: Array,
    *,
    k: int,
    iterations: int,
    empty: str = "perturb",
    spherical: bool = False,
    block: int = 1024,
    init: Array | None = None,
    mask: Array | None = None,
    axis_name: str | None = None,
) -> KMeansResult:
    """Runs Lloyd's k-means from random points, and assigns the points to the final centroids.

    Random choices depend on a point's global index, not on the number of devices: the results agree
    up to the order of float additions, and exactly if these sums are exact, as for integers.

    Args:
        key: PRNG key.
        points: float [N,D], this device's share; cast to float32 block by block. Centre them if
            they are far from zero compared with their spread, or distances lose precision.
        k: number of clusters, at most the number of points.
        iterations: number of updates of the centroids; 0 only assigns.
        empty: new centroid of an empty cluster: 'perturb', a random non-empty cluster's with a
            small perturbation (the lecture); 'donor', faiss's rule, which splits a large cluster;
            'keep', the old one (DeepCluster v2).
        spherical: centroids are normalised after every iteration; the points should have unit
            norm.
        block: number of points in a block; its scores float32 [block,k] are in memory at once.
        init: float [k,D], the initial centroids; None takes k distinct points at random.
        mask: bool [N], False for padding, which must come after all points of all devices. None
            uses all. At least k points must remain.
        axis_name: the batch axis, or None on one device.

    Returns:
        A `KMeansResult`.

    Raises:
        UserError: k larger than the number of points; unknown name of a rule.
        ValueError: other shapes.

    Example:
        >>> points = jnp.array([[0.0], [1.0], [10.0], [11.0]])
        >>> result = kmeans(jax.random.key(0), points, k=2, iterations=3, init=points[:2])
        >>> print(result.centroids.ravel(), result.assignments)
        [ 0.5 10.5] [0 0 1 1]
        >>> print(result.objective[0], result.objective[-1])
        181.0 1.0

    Reference:
        DeepCluster, https://arxiv.org/abs/1807.05520, section 3.2; faiss's `Clustering`, used by
        its official code.
    """
    _check_points(points, "kmeans")
    N, D = jnp.shape(points)
    check_clusters(k, N * collectives.axis_size(axis_name))
    if empty not in EMPTY:
        raise UserError(f"Unknown rule for empty clusters {empty!r}: {nearest(empty, EMPTY)}")
    if iterations < 0 or block < 1:
        raise ValueError(f"kmeans expects iterations >= 0, block >= 1: {iterations}, {block}.")
    if init is not None and jnp.shape(init) != (k, D):
        raise ValueError(f"kmeans expects init {(k, D)}, found {jnp.shape(init)}.")
    if mask is not None and jnp.shape(mask) != (N,):
        raise ValueError(f"kmeans expects a mask {(N,)}, found {jnp.shape(mask)}.")
    options = dict(k=k, iterations=iterations, empty=empty, spherical=spherical, block=block)
    return _kmeans(key, points, init, mask, **options, axis_name=axis_name)


def assign(
    points: Array, centroids: Array, *, spherical: bool = False, block: int = 1024
) -> tuple[Array, Array]:
    """Assigns each point to its nearest centroid, the first for ties.

    Args:
        points: float [N,D].
        centroids: float [k,D].
        spherical: normalises the centroids first, so that the nearest has the smallest angle.
        block: number of points in a block; its scores float32 [block,k] are in memory at once.

    Returns:
        assignments: int32 [N].
        distances: float32 [N], squared, to these centroids.

    Raises:
        ValueError: other shapes.

    Example:
        >>> print(*assign(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [3.0], [9.0]])))
        [0 1] [1. 1.]
    """
    _check_points(points, "assign")
    if len(jnp.shape(centroids)) != 2 or jnp.shape(centroids)[1] != jnp.shape(points)[1]:
        raise ValueError(
            f"assign expects points [N,D] and centroids [k,D], found {jnp.shape(points)} and "
            f"{jnp.shape(centroids)}."
        )
    return _assign(points, centroids, spherical=spherical, block=block)


def check_clusters(k: int, examples: int, *, flag: str = "k") -> None:
    """Raises UserError for more clusters than examples.

    Args:
        k: number of clusters.
        examples: M.
        flag: the command-line flag of k, for the message.

    Raises:
        UserError: names the largest valid k.

    Example:
        >>> check_clusters(10, 100)
    """
    if not 1 <= k <= examples:
        raise UserError(
            f"{k} clusters of {examples} examples: expected between 1 and {examples} clusters. "
            f"Type {flag}={examples} or less."
        )


@functools.partial(
    jax.jit,
    static_argnames=("k", "iterations", "empty", "spherical", "block", "axis_name"),
)
def _kmeans(
    key: Array,
    points: Array,
    init: Array | None,
    mask: Array | None,
    *,
    k: int,
    iterations: int,
    empty: str,
    spherical: bool,
    block: int,
    axis_name: str | None,
) -> KMeansResult:
    pick, repair = jax.random.split(key)
    if init is None:
        init = _random_points(pick, points, mask, k=k, axis_name=axis_name)
    centroids = unit_rows(init) if spherical else init.astype(jnp.float32)
    N = points.shape[0] if mask is None else jnp.sum(mask)
    N = collectives.psum(jnp.asarray(N, jnp.float32), axis_name)

    def measure(centroids: Array, update: bool) -> tuple[Array, ...]:
        labels, _, *sums = scan_blocks(points, centroids, mask, block=block, update=update)
        return labels, *collectives.psum(tuple(sums), axis_name)

    def iterate(centroids: Array, t: Array) -> tuple[Array, tuple[Array, Array]]:
        _, objective, sizes, sums = measure(centroids, True)
        means = sums / jnp.maximum(sizes, 1).astype(jnp.float32)[:, None]
        if empty == "keep":
            new = jnp.where((sizes == 0)[:, None], centroids, means)
        else:
            scale = jnp.sqrt(objective / (N * means.shape[1]))
            new = jax.lax.cond(
                jnp.any(sizes == 0),
                functools.partial(_repair, empty),
                lambda key, means, sizes, scale: means,
                *(jax.random.fold_in(repair, t), means, sizes, scale),
            )
        if spherical:
            # The mean of opposite points has no direction: keep the old centroid.
            lengths = jnp.linalg.norm(new, axis=1, keepdims=True)
            new = jnp.where(lengths > 1e-6, new / jnp.maximum(lengths, 1e-6), centroids)
        return new, (objective, jnp.sum(sizes == 0))

    centroids, (history, empties) = jax.lax.scan(iterate, centroids, jnp.arange(iterations))
    labels, objective, sizes = measure(centroids, False)
    return KMeansResult(
        centroids=centroids,
        assignments=labels,
        objective=jnp.append(history, objective),
        sizes=sizes,
        empty=jnp.append(empties, jnp.sum(sizes == 0)),
    )


def _repair(rule: str, key: Array, means: Array, sizes: Array, scale: Array) -> Array:
    if rule == "donor":
        return empty_clusters.split_donors(key, means, sizes)[0]
    return empty_clusters.perturb_copies(key, means, sizes, scale=scale)


def _random_points(
    key: Array, points: Array, mask: Array | None, *, k: int, axis_name: str | None
) -> Array:
    """Returns k distinct points of all devices: those with the largest random bits."""
    N = points.shape[0]
    first = collectives.global_index(N, axis_name)
    draws = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(first + jnp.arange(N))
    draws = (draws >> 1).astype(jnp.int32)
    if mask is not None:
        draws = jnp.where(mask, draws, -1)
    # Ties rank by index, in `top_k` and in the order of the gathered devices.
    draws, indices = jax.lax.top_k(draws, min(k, N))
    draws = collectives.all_gather(draws, axis_name)
    indices = collectives.all_gather(indices + first, axis_name)
    indices = indices[jax.lax.top_k(draws, k)[1]] - first
    is_local = (indices >= 0) & (indices < N)
    rows = points.at[indices].get(mode="clip").astype(jnp.float32)
    return collectives.psum(jnp.where(is_local[:, None], rows, 0.0), axis_name)


@functools.partial(jax.jit, static_argnames=("spherical", "block"))
def _assign(points: Array, centroids: Array, *, spherical: bool, block: int):
    centroids = unit_rows(centroids) if spherical else centroids.astype(jnp.float32)
    return scan_blocks(points, centroids, None, block=block, update=False)[:2]


def _check_points(points: Array, caller: str) -> None:
    shape = jnp.shape(points)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"{caller} expects points [N,D], found {shape}.")
