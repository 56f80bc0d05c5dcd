"""Records tests/golden/kmeans_faiss.npz from faiss-cpu. Run by hand:

    python tests/reference/record_kmeans_faiss.py      (faiss-cpu 1.15.1, numpy)

`Clustering` from given centroids, plain and spherical; its repair of an empty cluster where only
one donor can be drawn; `PCAMatrix` with whitening, as DeepCluster's official code calls it.
"""

import pathlib

import faiss
import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "kmeans_faiss.npz"
rng = np.random.default_rng(5)
record = {}


def cluster(name, points, init, iterations, spherical=False):
    k, dim = init.shape
    c = faiss.Clustering(dim, k)
    c.niter, c.max_points_per_centroid, c.min_points_per_centroid = iterations, 10**7, 1
    c.spherical = spherical
    faiss.copy_array_to_vector(init.ravel(), c.centroids)
    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(dim)
    c.train(points, index)
    stats = [c.iteration_stats.at(i) for i in range(iterations)]
    _, labels = index.search(points, 1)
    record[f"{name}_points"], record[f"{name}_init"] = points, init
    record[f"{name}_centroids"] = faiss.vector_to_array(c.centroids).reshape(k, dim)
    record[f"{name}_labels"] = labels[:, 0].astype(np.int16)
    record[f"{name}_objective"] = np.array([s.obj for s in stats])
    record[f"{name}_splits"] = np.array([s.nsplit for s in stats])


centres = rng.normal(size=(20, 6))
points = (centres[rng.integers(0, 20, 400)] + 0.5 * rng.normal(size=(400, 6))).astype(np.float32)
cluster("plain", points, points[:15].copy(), 8)
unit = points / np.linalg.norm(points, axis=1, keepdims=True)
cluster("spherical", unit, unit[:15].copy(), 8, spherical=True)
# Six points at cluster 1, one at each of clusters 0 and 3; nobody at 2: the donor must be 1.
split = np.concatenate([centres[:1] - 20, centres[2:3] + 0.1 * rng.normal(size=(6, 6)),
                        centres[3:4] + 20]).astype(np.float32)  # fmt: skip
cluster("split", split, np.stack([split[0], split[1], split[0] - 500, split[7]]), 1)

features = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)) + 3
features = features.astype(np.float32)
pca = faiss.PCAMatrix(8, 5, -0.5)
pca.train(features)
record["pca_features"], record["pca_whitened"] = features, pca.apply(features)

np.savez_compressed(GOLDEN, **record)
print({name: value.shape for name, value in record.items()}, GOLDEN.stat().st_size)
for name in ("plain", "spherical", "split"):
    print(name, record[f"{name}_splits"], record[f"{name}_objective"])
