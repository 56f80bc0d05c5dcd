"""The block-wise pass over the points in one iteration of k-means."""

import jax
import jax.numpy as jnp

from jssl.types import Array


def scan_blocks(
    points: Array, centroids: Array, mask: Array | None, *, block: int, update: bool
) -> tuple[Array, ...]:
    """Assigns this device's points to centroids, and optionally sums each cluster.

    Args:
        points: float [N,D].
        centroids: float32 [k,D].
        mask: bool [N], False for ignored points, or None.
        block: number of points in a block, whose scores are in memory at once.
        update: whether to sum the points of each cluster.

    Returns:
        labels: int32 [N], the nearest centroid, the first for ties; -1 where the mask is False.
        distances: float32 [N], squared.
        objective: float32 [], the sum of the distances of unmasked points.
        sizes: int32 [k].
        sums: float32 [k,D], only if `update`.
    """
    (N, _), k = points.shape, centroids.shape[0]
    block = min(block, N)
    half = 0.5 * jnp.sum(jnp.square(centroids), axis=1)
    indices = jnp.arange(k, dtype=jnp.int32)
    blocks = -(-N // block)

    def step(totals: tuple[Array, ...], i: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        # The last block ends with the last point, and masks those it shares with the previous
        # block: this avoids a padded copy of the points.
        start = jnp.minimum(i * block, N - block)
        valid = start + jnp.arange(block) >= i * block
        x = jax.lax.dynamic_slice_in_dim(points, start, block).astype(jnp.float32)
        if mask is not None:
            kept = jax.lax.dynamic_slice_in_dim(mask, start, block)
            valid &= kept
            x = jnp.where(kept[:, None], x, 0.0)
        scores = half[None] - jnp.dot(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
        # Not argmin, which on the CPU takes more time than the product.
        lowest = jnp.min(scores, axis=1)
        label = jnp.min(jnp.where(scores == lowest[:, None], indices[None], k - 1), axis=1)
        distance = jnp.maximum(2 * lowest + jnp.sum(jnp.square(x), axis=1), 0.0)
        counted = jnp.where(valid, label, k)
        if mask is not None:
            label = jnp.where(kept, label, -1)
        sizes = totals[0].at[counted].add(1, mode="drop")
        sums = (add_rows(totals[1], x, counted),) if update else ()
        return (sizes, *sums), (label, distance, jnp.sum(jnp.where(valid, distance, 0.0)))

    start = (jnp.zeros(k, jnp.int32),) + ((jnp.zeros_like(centroids),) if update else ())
    totals, (labels, distances, sums) = jax.lax.scan(step, start, jnp.arange(blocks))

    def flatten(x: Array) -> Array:
        tail = N - (blocks - 1) * block
        return jnp.concatenate([x[:-1].reshape(-1), x[-1, block - tail :]])

    return flatten(labels), flatten(distances), jnp.sum(sums), *totals


def add_rows(sums: Array, x: Array, label: Array) -> Array:
    """Adds each row of x [block,D] to sums [k,D] at its label; a label of k is ignored."""
    return jax.lax.platform_dependent(sums, x, label, cpu=scatter_rows, default=multiply_rows)


def scatter_rows(sums: Array, x: Array, label: Array) -> Array:
    """`add_rows` as a scatter-add, fast on a CPU."""
    return sums.at[label].add(x, mode="drop")


def multiply_rows(sums: Array, x: Array, label: Array) -> Array:
    """`add_rows` as a product with one-hot labels."""
    # Deterministic: a GPU's scatter adds in any order, and a TPU's is sequential.
    chosen = (label[:, None] == jnp.arange(sums.shape[0])[None]).astype(jnp.float32)
    return sums + jnp.dot(chosen.T, x, precision=jax.lax.Precision.HIGHEST)
