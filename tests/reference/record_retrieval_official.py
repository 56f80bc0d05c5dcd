"""Records tests/golden/retrieval_official.npz by RUNNING the authors' codes. Run by hand:

    git clone https://github.com/facebookresearch/deepcluster DEEPCLUSTER     (at 2d1927e)
    git clone https://github.com/filipradenovic/revisitop REVISITOP           (at be39832)
    python tests/reference/record_retrieval_official.py DEEPCLUSTER REVISITOP

Of eval_retrieval.py, which is Python 2 and imports the whole evaluation, only the method of the
regions and the class of the whitening are read and run, the latter on arrays in place of torch's
tensors. Of revisitop, `compute_map` with the roles of example_evaluate.py.
"""

import re
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval_official.npz"
SIZES = [(32, 32), (32, 48), (48, 64), (20, 64), (64, 20), (7, 7), (5, 9), (11, 4), (2, 3)]
LEVELS = 3


class Plain:
    """Stands for torch.autograd.Variable around arrays."""

    def __new__(cls, x):
        return x


class Torch:
    @staticmethod
    def from_numpy(x):
        class Viewable(np.ndarray):
            def view(self, *shape):
                return np.asarray(self).reshape(shape)

        return np.ndarray.view(x, Viewable)


def main(deepcluster, revisitop):
    text = (Path(deepcluster) / "eval_retrieval.py").read_text()
    method = re.search(r"    def get_rmac_region_coordinates.*?return np\.array\(.*?\n", text, re.S)
    space = {"np": np}
    exec("class Official:\n" + method.group(0), space)
    whitening = re.search(r"class PCA\(object\):.*?(?=    def to_cuda)", text, re.S).group(0)
    pca_space = {"np": np, "torch": Torch, "Variable": Plain}
    exec(whitening, pca_space)
    recorded = {}
    for H, W in SIZES:
        xywh = space["Official"]().get_rmac_region_coordinates(H, W, LEVELS)
        recorded[f"regions_{H}_{W}"] = xywh.astype(np.int16)

    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    scales = np.array([3.0, 2.0, 1.0, 0.5, 0.1, 1e-4])  # the last one is below the floor
    x = rng.normal(size=(60, 6)) * scales @ turn + rng.normal(size=(1, 6))
    x = x.astype(np.float32).astype(np.float64)
    official = pca_space["PCA"](6)
    official.fit(x.copy())
    mapped = (x - np.asarray(official.mean)) @ np.asarray(official.DVt).T
    unit = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    recorded |= {"x": x.astype(np.float32), "gram": (unit @ unit.T).astype(np.float32)}

    np.in1d = np.isin  # numpy 2.4 has the new name only
    sys.path.insert(0, str(Path(revisitop) / "python"))
    from evaluate import compute_map

    similarity = rng.normal(size=(6, 25))
    roles = rng.choice(4, size=(6, 25), p=[0.6, 0.15, 0.15, 0.1])  # none, easy, hard, junk
    roles[2][roles[2] == 1] = 0  # a query without easy ones
    roles[4][roles[4] == 2] = 3  # and one without hard ones
    ranks = np.argsort(-similarity, axis=1).T
    taken = {"easy": ([1], [2, 3]), "medium": ([1, 2], [3]), "hard": ([2], [1, 3])}
    for name, (good, bad) in taken.items():
        listed = [
            {"ok": np.flatnonzero(np.isin(r, good)), "junk": np.flatnonzero(np.isin(r, bad))}
            for r in roles
        ]
        mean, each, _, _ = compute_map(ranks, listed)
        recorded |= {f"map_{name}": mean, f"ap_{name}": each}
    recorded |= {"similarity": similarity, "roles": roles.astype(np.int8)}
    np.savez_compressed(GOLDEN, **recorded)


if __name__ == "__main__":
    main(*sys.argv[1:])
