"""Seconds of the online monitor's parts, beside scikit-learn's on the same arrays. Run by hand:

python tests/benchmarks/bench_evaluate.py [--large]
"""

import argparse
import time

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from jssl.evaluate import collapse_report, fit_linear, knn_accuracy


def clock(name, call, first=None):
    if first is not None:
        started = time.perf_counter()
        first()
        name = f"{name} (first call {time.perf_counter() - started:.2f} s)"
    started = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.3f} s", flush=True)
    return seconds, found


def data(M, D, classes, seed):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, D))
    labels = rng.integers(0, classes, M)
    return (0.4 * centres[labels] + rng.normal(size=(M, D))).astype(np.float32), labels


def knn(M, Q, D, k):
    bank, queries = data(M, D, 16, 1), data(Q, D, 16, 2)

    def ours():
        return knn_accuracy(*bank, *queries, num_classes=16, k=k)["top1"]

    def theirs():
        weights = lambda d: np.exp((1 - d) / 0.1)  # noqa: E731
        return KNeighborsClassifier(k, metric="cosine", weights=weights).fit(*bank).score(*queries)

    label = f"kNN M={M} Q={Q} D={D} k={k}"
    a, top1 = clock(f"{label} jssl", ours, ours)
    b, reference = clock(f"{label} scikit-learn", theirs)
    print(f"  ratio {b / a:.1f}, top-1 {top1:.4f} and {reference:.4f}")


def linear(M, D):
    x, y = data(M, D, 16, 1)

    def ours():
        return jax.block_until_ready(fit_linear(x, y, num_classes=16).head)

    clock(f"linear M={M} D={D} 100 epochs jssl", ours, ours)
    clock(
        f"linear M={M} D={D} scikit-learn L-BFGS",
        lambda: LogisticRegression(C=1e3, max_iter=200).fit(x, y),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    large = parser.parse_args().large
    knn(4000, 1200, 256, 20)
    knn(4000, 1200, 256, 200)
    if large:
        knn(50000, 2000, 512, 20)
        knn(50000, 2000, 512, 200)
    linear(3200, 256)
    linear(3200, 3072)
    z = data(512, 256, 16, 3)[0]
    clock("collapse report 512 x 256", lambda: collapse_report(z, z), lambda: collapse_report(z, z))
