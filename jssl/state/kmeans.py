"""k-means over points that lie on several devices, in blocks.

Lloyd's algorithm. Nothing of N x k is ever made: the points pass in blocks, and a block's scores
|c|^2 / 2 - x.c are used up before the next block's are computed. Every device holds its share of
the points and all centroids; sizes, sums and the objective are summed over devices.

ImageNet, M = 1,281,167, D = 256, k = 10,000, 20 iterations, blocks of 1,024, compiled for 32 TPU
v5e chips (ahead of time, none was there), bytes a chip: arguments 41.0 MB, results 10.4 MB, other
buffers 1.3 MB of the 16 GB; a block's scores are 41 MB and lie on the chip. A product of all points
and centroids is 2 M D k = 6.56 TFLOP. An iteration takes two, for scores and sums (one on CPU,
which scatters the sums), and the last assignment one: 269 TFLOP, 8.4 a chip, in float32.
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
    """What `kmeans` finds; all but the assignments is equal on every device.

    Attributes:
        centroids: float32 [k,D].
        assignments: int32 [N], the nearest centroid of each point of this device; -1 where the
            mask is False.
        objective: float32 [iterations + 1], the sum of squared distances to the nearest of the
            centroids before each iteration, and last to the returned ones.
        sizes: int32 [k], points of each cluster by `assignments`, over all devices.
        empty: int32 [iterations + 1], the number of empty clusters of those assignments; the
            last one's are not repaired.
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
    """Lloyd's k-means from random points, and the assignment to the centroids it ends with.

    Random choices are made by a point's index among those of all devices, and by nothing that
    depends on how many devices there are: the results agree up to the order of float additions,
    and exactly where these sums are exact, as for integers.

    Args:
        key: PRNG key.
        points: float [N,D], this device's share; cast to float32 block by block. Distances lose
            digits where the points lie far from zero beside their spread: centre them.
        k: number of clusters, at most the number of points.
        iterations: how often centroids become means; 0 only assigns.
        empty: what an empty cluster's new centroid is: 'perturb', a random non-empty cluster's
            with a small perturbation (the lecture); 'donor', faiss's rule, which splits a large
            cluster; 'keep', the one it had (DeepCluster v2).
        spherical: centroids are divided by their length after every iteration; the points should
            have length one.
        block: points whose scores are in memory at once: float32 [block,k].
        init: float [k,D], the first centroids; None takes k distinct rows of points at random.
        mask: bool [N], False for padding; padding comes after all points of all devices. None
            takes all. It must leave k points.
        axis_name: the batch axis, or None on one device.

    Returns:
        A `KMeansResult`.

    Raises:
        UserError: k larger than the number of points; unknown name of a rule.
        ValueError: other shapes.

    Example:
        >>> points = jnp.array([[0.0], [1.0], [10.0], [11.0]])
        >>> found = kmeans(jax.random.key(0), points, k=2, iterations=3, init=points[:2])
        >>> print(found.centroids.ravel(), found.assignments)
        [ 0.5 10.5] [0 0 1 1]
        >>> print(found.objective[0], found.objective[-1])
        181.0 1.0

    Reference:
        DeepCluster, https://arxiv.org/abs/1807.05520, section 3.2; faiss's `Clustering`, which
        its official code calls.
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
    """The nearest centroid of each point, the first one of equals.

    Args:
        points: float [N,D].
        centroids: float [k,D].
        spherical: divides the centroids by their length first; the nearest is then the one of
            the smallest angle.
        block: points whose scores are in memory at once: float32 [block,k].

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
    """Refuses more clusters than there are examples.

    Args:
        k: number of clusters.
        examples: M.
        flag: what the user types to set k.

    Raises:
        UserError: with the largest k that would do.

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
            # The mean of opposite points has no direction: the old centroid stays.
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
    """k distinct rows of all devices' points: those of the largest of one draw for each index."""
    N = points.shape[0]
    first = collectives.global_index(N, axis_name)
    draws = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(first + jnp.arange(N))
    draws = (draws >> 1).astype(jnp.int32)
    if mask is not None:
        draws = jnp.where(mask, draws, -1)
    # Equal draws rank by index, in `top_k` as in the order of the gathered devices.
    draws, places = jax.lax.top_k(draws, min(k, N))
    draws = collectives.all_gather(draws, axis_name)
    places = collectives.all_gather(places + first, axis_name)
    places = places[jax.lax.top_k(draws, k)[1]] - first
    here = (places >= 0) & (places < N)
    rows = points.at[places].get(mode="clip").astype(jnp.float32)
    return collectives.psum(jnp.where(here[:, None], rows, 0.0), axis_name)


@functools.partial(jax.jit, static_argnames=("spherical", "block"))
def _assign(points: Array, centroids: Array, *, spherical: bool, block: int):
    centroids = unit_rows(centroids) if spherical else centroids.astype(jnp.float32)
    return scan_blocks(points, centroids, None, block=block, update=False)[:2]


def _check_points(points: Array, caller: str) -> None:
    shape = jnp.shape(points)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"{caller} expects points [N,D], found {shape}.")
