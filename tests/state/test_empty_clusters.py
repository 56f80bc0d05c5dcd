"""Empty clusters: the lecture's rule, faiss's, and keeping the centroid."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jssl import state
from jssl.state import empty_clusters
from jssl.state.empty_clusters import split_donors

perturb_copies = jax.jit(empty_clusters.perturb_copies)
FAISS = np.load(Path(__file__).parents[1] / "golden" / "kmeans_faiss.npz")
# Two lumps, 4 apart, of one centroid; a third lump far off; nobody at the last centroid.
LUMPS = np.array([[-2, 0.3], [-2, -0.3], [2, 0.2], [2, -0.2], [50, 1], [50, -1]], np.float32)
INIT = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 1000.0]], np.float32)


def test_perturbed_copies_share_the_donors_points():
    """Eight keys, among them some for either donor: the two lumps' centroid, or the third's."""
    donors = set()
    for seed in range(8):
        once = state.kmeans(
            jax.random.key(seed), LUMPS, k=3, iterations=1, init=INIT, empty="perturb"
        )
        assert list(once.empty) == [1, 0]
        np.testing.assert_array_equal(once.centroids[:2], INIT[:2])
        apart = np.linalg.norm(np.asarray(once.centroids[2]) - INIT[:2], axis=1)
        donor = int(np.argmin(apart))
        donors.add(donor)
        # Mean square distance of a coordinate: (16.26 + 2) / 12; its root 1.23, brought up to 2.
        assert 0 < apart[donor] < 5 * 0.02
        # The donor's points are re-assigned to the two of them, some to each; no other moves.
        moved = np.asarray(once.assignments)
        was = np.array([0, 0, 0, 0, 1, 1])
        assert set(moved[was == donor]) == {donor, 2}
        np.testing.assert_array_equal(moved[was != donor], was[was != donor])
        assert once.objective[1] < once.objective[0]
    assert donors == {0, 1}


def test_donors_of_perturbed_copies_are_uniform():
    """Sizes 7, 1, 2, 900 and 4000 empty ones: each of 7, 2, 900 a third of the time, 1 never."""
    sizes = jnp.zeros(4004, jnp.int32).at[:4].set(jnp.array([7, 1, 2, 900]))
    centroids = jnp.zeros((4004, 3)).at[:4].set(100.0 * jnp.arange(4)[:, None])
    new = np.asarray(perturb_copies(jax.random.key(0), centroids, sizes, scale=jnp.float32(3.0)))
    np.testing.assert_array_equal(new[:4], centroids[:4])
    donor = np.rint(new[4:, 0] / 100).astype(int)
    counts = np.bincount(donor, minlength=4)
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]], 4000 / 3, atol=5 * 30)
    noise = new[4:] - 100 * donor[:, None]
    np.testing.assert_allclose(noise.std(), 0.01 * 4, rtol=5 / np.sqrt(2 * noise.size))
    np.testing.assert_allclose(noise.mean(), 0, atol=5 * 0.04 / np.sqrt(noise.size))


def test_single_points_are_only_copied_without_larger_clusters():
    sizes, centroids = jnp.array([1, 0, 1]), jnp.array([[1.0], [np.nan], [9.0]])
    new = perturb_copies(jax.random.key(0), centroids, sizes, scale=jnp.float32(0.0))
    assert float(new[1, 0]) in (1.0, 9.0)


def test_noise_ignores_the_last_digits_of_the_objective():
    """These digits depend on the number of devices."""
    sizes, centroids = jnp.array([3, 0]), jnp.array([[1.0, 2.0], [0.0, 0.0]])
    near = [np.float32(0.3), np.nextafter(np.float32(0.3), np.float32(1))]
    one, other = (perturb_copies(jax.random.key(0), centroids, sizes, scale=s) for s in near)
    np.testing.assert_array_equal(one, other)


def test_split_donors_with_one_possible_donor():
    """Recorded of faiss: sizes 1, 6, 0, 1 of 8 points, so cluster 1 is taken with p = 5/4."""
    result = state.kmeans(
        jax.random.key(0),
        FAISS["split_points"],
        k=4,
        iterations=1,
        init=FAISS["split_init"],
        empty="donor",
    )
    np.testing.assert_allclose(result.centroids, FAISS["split_centroids"], rtol=1e-6)
    np.testing.assert_allclose(result.objective[0], FAISS["split_objective"][0], rtol=1e-4)
    assert int(result.empty[0]) == FAISS["split_splits"][0]
    np.testing.assert_array_equal(result.assignments, FAISS["split_labels"])
    # The arithmetic: even coordinates of the copy times 1 + 1/1024, odd ones 1 - 1/1024.
    mean = FAISS["split_points"][1:7].mean(0)
    factors = np.where(np.arange(6) % 2, 1 - 1 / 1024, 1 + 1 / 1024)
    np.testing.assert_allclose(result.centroids[2], mean * factors, rtol=1e-6)
    np.testing.assert_allclose(result.centroids[1], mean * (2 - factors), rtol=1e-6)


def test_split_donors_follows_the_cyclic_visits():
    """Sizes 10, 1, 30, 5, 0: n - k = 41; visits stop with 9/41, 0, 29/41, 4/41 in this order."""
    sizes = jnp.array([10, 1, 30, 5, 0])
    centroids = jnp.array([[1.0], [2.0], [3.0], [4.0], [0.0]])
    keys = jax.random.split(jax.random.key(1), 20_000)
    new, assumed = jax.jit(jax.vmap(lambda key: split_donors(key, centroids, sizes)))(keys)
    donor = np.rint(new[:, 4, 0]).astype(int) - 1
    accept = np.array([9, 0, 29, 4, 0]) / 41
    reached = np.cumprod(np.append(1, 1 - accept))[:5]
    expected = accept * reached / (accept * reached).sum()
    spread = np.sqrt(expected * (1 - expected) / len(keys))
    np.testing.assert_array_less(
        np.abs(np.bincount(donor, minlength=5) / len(keys) - expected), 5 * spread + 1e-9
    )
    # Halves: the smaller one is the copy's.
    before = np.asarray(sizes)[donor]
    np.testing.assert_array_equal(assumed[:, 4], before // 2)
    np.testing.assert_array_equal(assumed[np.arange(len(keys)), donor], before - before // 2)


def naive_split(draw, centroids, sizes, n):
    """faiss's loop in its own order, with a function for each visit's draw."""
    centroids, sizes = centroids.astype(np.float64).copy(), list(sizes)
    k = len(sizes)
    for e in range(k):
        if sizes[e] == 0:
            j = 0
            while not draw() < (sizes[j] - 1) / max(n - k, 1e-9):
                j = (j + 1) % k
            centroids[e] = centroids[j]
            sign = np.where(np.arange(centroids.shape[1]) % 2, -1, 1) / 1024
            centroids[e], centroids[j] = centroids[e] * (1 + sign), centroids[j] * (1 - sign)
            sizes[e] = sizes[j] // 2
            sizes[j] -= sizes[e]
    return centroids, sizes


def test_copies_of_copies_have_the_distribution_of_faiss():
    """8 points in one cluster of 4, all distinct clusters fewer than k: three empty ones."""
    centroids = np.array([[1000.0, 1000.0]] + [[0.0, 0.0]] * 3, np.float32)
    rng = np.random.default_rng(0)
    naive = [naive_split(rng.random, centroids, [8, 0, 0, 0], 8) for _ in range(4000)]
    keys = jax.random.split(jax.random.key(2), 4000)
    split = jax.jit(
        jax.vmap(lambda key: split_donors(key, jnp.asarray(centroids), jnp.array([8, 0, 0, 0])))
    )
    ours = list(zip(*map(np.asarray, split(keys)), strict=True))
    for _, sizes in ours:
        assert min(sizes) > 0 and sum(sizes) == 8
    tables = []
    for sample in (naive, ours):
        seen = {}
        for new, sizes in sample:
            outcome = tuple(map(int, sizes)), tuple(np.rint(new[:, 0] * 50).astype(int))
            seen[outcome] = seen.get(outcome, 0) + 1
        tables.append(seen)
    likely = [o for o in tables[0] if tables[0][o] > 40]
    assert len(likely) > 4 and sum(tables[0][o] for o in likely) > 3900
    for o in likely:
        # The difference of two counts of about that size, 5 standard deviations.
        assert abs(tables[0][o] - tables[1].get(o, 0)) < 5 * np.sqrt(2 * tables[0][o]), o


def test_more_clusters_than_distinct_points():
    """Three places, eight clusters: the donor rule leaves no two centroids equal; all finite."""
    points = np.repeat(np.array([[1.0, 2.0], [3.0, 1.0], [-4.0, 2.0]], np.float32), 10, axis=0)
    for empty in ("donor", "perturb"):
        result = state.kmeans(jax.random.key(0), points, k=8, iterations=3, empty=empty)
        assert np.all(np.isfinite(result.centroids)) and np.sum(result.sizes) == 30
        assert int(result.empty[-1]) == np.sum(np.asarray(result.sizes) == 0) >= 5
        if empty == "donor":
            assert len(np.unique(np.asarray(result.centroids), axis=0)) == 8
            near = np.abs(result.centroids[:, None] / points[None, ::10] - 1).max(-1).min(1)
            assert np.all(near < 1.01 * ((1 + 1 / 1024) ** 5 - 1))


def test_keep_leaves_the_empty_clusters_centroid():
    result = state.kmeans(jax.random.key(0), LUMPS, k=3, iterations=3, init=INIT, empty="keep")
    np.testing.assert_array_equal(result.centroids, INIT)
    np.testing.assert_array_equal(result.empty, 1)
    # DeepCluster v2: on the sphere, the centroid that nobody chose stays, of length one.
    unit = np.asarray(state.unit_rows(LUMPS))
    init = np.array([[1.0, 0.0], [-1.0, 0.0], [0.6, -0.8]], np.float32)
    result = state.kmeans(
        jax.random.key(0), unit, k=3, iterations=2, init=init, empty="keep", spherical=True
    )
    assert int(result.sizes[2]) == 0
    np.testing.assert_allclose(result.centroids[2], init[2], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1.0, rtol=1e-6)


def test_opposite_points_keep_a_spherical_centroid():
    points = np.array([[0.0, 1.0], [0.0, -1.0]], np.float32)
    init = np.array([[1.0, 0.0]], np.float32)
    result = state.kmeans(jax.random.key(0), points, k=1, iterations=2, init=init, spherical=True)
    np.testing.assert_array_equal(result.centroids, init)
