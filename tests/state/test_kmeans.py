"""k-means: Lloyd's iterations, blocks, devices, init, mask, memory, errors."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jssl import state
from jssl.errors import UserError
from jssl.state._blocks import multiply_rows, scatter_rows
from jssl.state.kmeans import KMeansResult, _kmeans

FAISS = np.load(Path(__file__).parents[1] / "golden" / "kmeans_faiss.npz")


def clusters(N, D, count, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, D))
    return (centres[rng.integers(0, count, N)] + 0.4 * rng.normal(size=(N, D))).astype(np.float32)


def lloyd(points, centroids, iterations, spherical=False):
    """Lloyd's algorithm in float64, cluster by cluster; no cluster may become empty."""
    points, centroids, objective = points.astype(np.float64), centroids.astype(np.float64), []
    for t in range(iterations + 1):
        distances = ((points[:, None] - centroids[None]) ** 2).sum(-1)
        labels = distances.argmin(1)
        objective.append(distances.min(1).sum())
        if t < iterations:
            centroids = np.stack([points[labels == j].mean(0) for j in range(len(centroids))])
            if spherical:
                centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return centroids, labels, objective


@pytest.mark.parametrize(
    ("block", "spherical"), [(1, True), (37, False), (64, True), (1000, False)]
)
def test_lloyds_algorithm_in_blocks_of_any_size(block, spherical):
    """250 points: 37 and 64 leave a last block that shares points with the one before."""
    points = clusters(250, 5, 12)
    if spherical:
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    options = dict(k=8, iterations=6, init=points[:8], spherical=spherical, block=block)
    result = state.kmeans(jax.random.key(0), points, **options)
    centroids, labels, objective = lloyd(points, points[:8], 6, spherical)
    np.testing.assert_array_equal(result.assignments, labels)
    np.testing.assert_array_equal(result.sizes, np.bincount(labels, minlength=8))
    np.testing.assert_array_equal(result.empty, 0)
    np.testing.assert_allclose(result.centroids, centroids, atol=2e-6)
    np.testing.assert_allclose(result.objective, objective, rtol=1e-5)
    # Each half of an iteration can only lower the objective, where nothing was repaired.
    assert np.all(np.diff(result.objective) <= 1e-5 * result.objective[0])
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["plain", "spherical"])
def test_equals_faiss_from_the_same_centroids(name):
    points, spherical = FAISS[f"{name}_points"], name == "spherical"
    options = dict(k=15, iterations=8, init=FAISS[f"{name}_init"], spherical=spherical, block=64)
    result = state.kmeans(jax.random.key(0), points, **options)
    np.testing.assert_array_equal(result.assignments, FAISS[f"{name}_labels"])
    np.testing.assert_allclose(result.centroids, FAISS[f"{name}_centroids"], atol=3e-6)
    objective = result.objective[:-1]
    if spherical:  # faiss's is the sum of x.c, and |x - c|^2 = 2 - 2 x.c
        objective = len(points) - objective / 2
    np.testing.assert_allclose(objective, FAISS[f"{name}_objective"], rtol=1e-5)


def on_devices(n, mode, points, mask, **options):
    """kmeans with the points in n equal shares; the leaves as of one device."""
    run = functools.partial(state.kmeans, jax.random.key(3), axis_name="share", **options)
    if mode == "shard_map":
        mesh = Mesh(np.array(jax.devices()[:n]), ("share",))
        shared, full = PartitionSpec("share"), PartitionSpec()
        out = KMeansResult(full, shared, full, full, full)
        call = lambda points, mask: run(points, mask=mask)  # noqa: E731
        specs = dict(in_specs=(shared, shared), out_specs=out, check_vma=False)
        return jax.jit(jax.shard_map(call, mesh=mesh, **specs))(points, mask)
    call = jax.vmap if mode == "vmap" else functools.partial(jax.pmap, devices=jax.devices()[:n])
    split = lambda x: x.reshape(n, -1, *x.shape[1:])  # noqa: E731
    result = call(lambda x, m: run(x, mask=m), axis_name="share")(split(points), split(mask))
    for leaf in result:
        if leaf is not result.assignments:
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    first = jax.tree.map(lambda leaf: leaf[0], result)
    return first._replace(assignments=result.assignments.ravel())


@pytest.mark.parametrize(
    ("empty", "launches"),
    [
        ("perturb", [(2, "pmap"), (4, "pmap")]),
        ("donor", [(4, "shard_map")]),
        ("keep", [(4, "vmap")]),
    ],
)
def test_integer_points_give_identical_clusters_on_any_number_of_devices(empty, launches):
    """Small integers, with ties; random init; 206 points and padding to a multiple of n.

    Empty clusters come by themselves: 206 points stand in 49 places, and 40 of them are picked.
    """
    points = np.random.default_rng(0).integers(-3, 4, (206, 2)).astype(np.float32)
    options = dict(k=40, iterations=4, empty=empty, block=16)
    single = state.kmeans(jax.random.key(3), points, **options)
    assert single.empty[0] > 0
    for n, mode in launches:
        padding = -len(points) % n
        mask = np.arange(len(points) + padding) < len(points)
        padded = np.concatenate([points, np.full((padding, 2), np.nan, np.float32)])
        result = on_devices(n, mode, padded, mask, **options)
        np.testing.assert_array_equal(result.centroids, single.centroids)
        np.testing.assert_array_equal(result.assignments[mask], single.assignments)
        np.testing.assert_array_equal(result.assignments[~mask], -1)
        np.testing.assert_array_equal(result.sizes, single.sizes)
        np.testing.assert_array_equal(result.empty, single.empty)
        # Distances are not integers once the centroids are not.
        np.testing.assert_allclose(result.objective, single.objective, rtol=1e-6)


def test_float_points_give_equal_clusters_up_to_rounding_on_four_devices():
    points = clusters(400, 6, 20)
    options = dict(k=16, iterations=5, empty="keep", block=32)
    single = state.kmeans(jax.random.key(3), points, **options)
    result = on_devices(4, "pmap", points, np.ones(400, bool), **options)
    np.testing.assert_array_equal(result.assignments, single.assignments)
    np.testing.assert_allclose(result.centroids, single.centroids, atol=1e-6)
    np.testing.assert_allclose(result.objective, single.objective, rtol=1e-6)


def test_initial_centroids_are_distinct_uniform_unpadded_points():
    points = np.arange(12, dtype=np.float32)[:, None]
    mask = np.arange(12) < 10
    pick = lambda key: state.kmeans(key, points, k=4, iterations=0, mask=mask).centroids  # noqa: E731
    picked = np.asarray(jax.jit(jax.vmap(pick))(jax.random.split(jax.random.key(0), 3000)))[..., 0]
    assert all(len(set(row)) == 4 for row in picked)
    counts = np.bincount(picked.ravel().astype(int), minlength=12)
    np.testing.assert_array_equal(counts[10:], 0)
    # 3000 draws of 4 in 10: 1200 each, standard deviation 27; the first pick alone: 300, 16.
    np.testing.assert_allclose(counts[:10], 1200, atol=5 * 27)
    np.testing.assert_allclose(np.bincount(picked[:, 0].astype(int))[:10], 300, atol=5 * 17)


def test_result_depends_only_on_the_key():
    points = clusters(100, 3, 6)
    run = lambda seed: state.kmeans(jax.random.key(seed), points, k=6, iterations=3)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, run(0), run(0))
    assert not np.array_equal(run(0).centroids, run(1).centroids)


def temporary_bytes(N, k, block):
    options = dict(k=k, iterations=3, empty="perturb", spherical=False, block=block)
    points = jax.ShapeDtypeStruct((N, 16), jnp.float32)
    lowered = _kmeans.lower(jax.random.key(0), points, None, None, **options, axis_name=None)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_is_limited_by_the_block():
    """At k = 500, N x k floats would be 40 MB and 80 MB; a copy of the points 1.3 and 2.6 MB."""
    small, large = temporary_bytes(20_000, 500, 64), temporary_bytes(40_000, 500, 64)
    # Some floats for each point (labels, distances, random draws), and no row of k or of D.
    assert 0 < large - small < 20_000 * 4 * 12, (small, large)
    # Beside them some buffers of block x k and k x D.
    assert 2 * small - large < 4 * 4 * 500 * (64 + 16), (small, large)
    assert temporary_bytes(20_000, 500, 2048) - small > 4 * 500 * (2048 - 64) * 0.9


def test_scatter_rows_and_multiply_rows():
    """CPUs scatter, other platforms multiply; label k is left out; integers add exactly."""
    rng = np.random.default_rng(0)
    sums, x = rng.integers(-9, 9, (5, 3)), rng.integers(-9, 9, (40, 3))
    label = rng.integers(0, 6, 40)
    expected = sums + np.stack([x[label == j].sum(0) for j in range(5)])
    for way in (scatter_rows, multiply_rows):
        result = way(
            jnp.asarray(sums, jnp.float32), jnp.asarray(x, jnp.float32), jnp.asarray(label)
        )
        np.testing.assert_array_equal(result, expected)


def test_assign_takes_the_first_of_equal_centroids():
    points = jnp.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]])
    centroids = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [3.0, 1.0]])
    labels, distances = state.assign(points, centroids, block=2)
    np.testing.assert_array_equal(labels, [0, 0, 3])
    np.testing.assert_array_equal(distances, [1.0, 1.0, 4.0])
    assert labels.dtype == jnp.int32 and distances.dtype == jnp.float32
    # By angle: [0, 5] is nearest to [0, 0.1], by distance to [3, 4].
    centroids = jnp.array([[3.0, 4.0], [0.0, 0.1]])
    assert int(state.assign(jnp.array([[0.0, 5.0]]), centroids)[0][0]) == 0
    labels, distances = state.assign(jnp.array([[0.0, 5.0]]), centroids, spherical=True)
    np.testing.assert_allclose([labels[0], distances[0]], [1, 16.0], rtol=1e-6)


def test_bfloat16_points_give_float32_centroids():
    points = jnp.asarray(clusters(64, 4, 4), jnp.bfloat16)
    options = dict(k=4, iterations=1, empty="keep", init=points[:4])
    low = state.kmeans(jax.random.key(0), points, **options)
    high = state.kmeans(jax.random.key(0), points.astype(jnp.float32), **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), low, high)
    assert low.centroids.dtype == jnp.float32


def test_user_errors():
    points = jnp.zeros((10, 2))
    key = jax.random.key(0)
    with pytest.raises(UserError, match="11 clusters of 10 examples: expected .*Type k=10 or less"):
        state.kmeans(key, points, k=11, iterations=1)
    with pytest.raises(UserError, match="0 clusters of 10"):
        state.check_clusters(0, 10)
    with pytest.raises(UserError, match="--config.deepcluster.k=10 or less"):
        state.check_clusters(11, 10, flag="--config.deepcluster.k")
    with pytest.raises(UserError, match="'doner': did you mean 'donor'"):
        state.kmeans(key, points, k=2, iterations=1, empty="doner")
    with pytest.raises(UserError, match="9 clusters of 8 examples"):
        run = functools.partial(state.kmeans, key, k=9, iterations=1, axis_name="share")
        jax.vmap(run, axis_name="share")(jnp.zeros((4, 2, 2)))
    # 9 of the 8 x 2 points of all devices are there.
    jax.eval_shape(jax.vmap(run, axis_name="share"), jnp.zeros((8, 2, 2)))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"points \[N,D\], found \(10,\)", dict(points=jnp.zeros(10))),
        (r"init \(3, 2\), found \(3, 4\)", dict(init=jnp.zeros((3, 4)))),
        (r"mask \(10,\), found \(4,\)", dict(mask=jnp.ones(4, bool))),
        ("block >= 1: 1, 0", dict(block=0)),
    ],
)
def test_misuse_raises_with_the_shapes(message, change):
    arguments = dict(points=jnp.zeros((10, 2)), k=3, iterations=1) | change
    with pytest.raises(ValueError, match=message):
        state.kmeans(jax.random.key(0), **arguments)


def test_assign_refuses_other_dimensions():
    with pytest.raises(ValueError, match=r"found \(10, 2\) and \(3, 4\)"):
        state.assign(jnp.zeros((10, 2)), jnp.zeros((3, 4)))
