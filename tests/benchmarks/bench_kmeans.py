"""k-means beside faiss-cpu's `Clustering` in turns, on the same points and settings. By hand:

python tests/benchmarks/bench_kmeans.py --faiss-python PYTHON [--rounds 3] [--dim 256] \\
    [--record docs/benchmarks/kmeans.json] ...

faiss runs in a child process of PYTHON, which must have faiss-cpu and numpy; it waits while jssl
computes, and the other way round. faiss's time is that of `train` alone, from jssl's random points
(of two random choices the objectives differ by more than 0.1 % even within one library); jssl's
holds their choice and the final assignment too, which DeepCluster asks of faiss by a search.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

CHILD = """
import sys, time
import faiss, numpy as np
points, k, iterations = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print(faiss.__version__, faiss.omp_get_max_threads(), flush=True)
for path in sys.stdin:
    c = faiss.Clustering(points.shape[1], k)
    c.niter, c.max_points_per_centroid = iterations, 10**7
    faiss.copy_array_to_vector(np.load(path.strip()).ravel(), c.centroids)
    index = faiss.IndexFlatL2(points.shape[1])
    started = time.perf_counter()
    c.train(points, index)
    seconds = time.perf_counter() - started
    distances, _ = index.search(points, 1)
    print(seconds, time.perf_counter() - started, distances.sum(dtype=np.float64), flush=True)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--faiss-python", default=sys.executable)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--empty", default="donor")
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--record", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--mixture", action="store_true", help="2k overlapping clusters")
    args = parser.parse_args()

    import jax
    import numpy as np

    from jssl.state import kmeans

    rng = np.random.default_rng(0)
    points = rng.standard_normal((args.points, args.dim), dtype=np.float32)
    if args.mixture:
        centres = rng.standard_normal((2 * args.k, args.dim), dtype=np.float32)
        points += centres[rng.integers(0, 2 * args.k, args.points)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "points.npy")
        np.save(path, points)
        child = subprocess.Popen(
            [args.faiss_python, "-c", CHILD, str(path), str(args.k), str(args.iterations)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
        version, threads = child.stdout.readline().split()
        print(f"faiss {version}, {threads} threads; jax {jax.__version__}, {os.cpu_count()} cores")
        points = jax.device_put(points)

        def ours(seed):
            started = time.perf_counter()
            found = kmeans(
                jax.random.key(seed),
                points,
                k=args.k,
                iterations=args.iterations,
                empty=args.empty,
                block=args.block,
            )
            objective = float(found.objective[-1])
            return time.perf_counter() - started, objective

        def theirs(seed):
            init = kmeans(jax.random.key(seed), points, k=args.k, iterations=0).centroids
            np.save(pathlib.Path(folder, "init.npy"), init)
            child.stdin.write(f"{pathlib.Path(folder, 'init.npy')}\n")
            child.stdin.flush()
            return [float(x) for x in child.stdout.readline().split()]

        print(f"first call, with compilation: {ours(0)[0]:.2f} s")
        record = {"points": args.points, "dim": args.dim, "k": args.k,
                  "iterations": args.iterations, "mixture": args.mixture, "rounds": [],
                  "versions": {"jax": jax.__version__, "faiss-cpu": version}}  # fmt: skip
        for seed in range(1, args.rounds + 1):
            seconds, objective = ours(seed)
            train, whole, reference = theirs(seed)
            print(
                f"seed {seed}: jssl {seconds:.2f} s with the final assignment, faiss {train:.2f} s "
                f"({whole:.2f} s with it): {train / seconds:.2f} times as fast "
                f"({whole / seconds:.2f}); objective {objective / reference - 1:+.4%} of faiss's",
                flush=True,
            )
            record["rounds"].append({
                "jssl_seconds": round(seconds, 2), "faiss_seconds": round(train, 2),
                "faiss_with_assignment_seconds": round(whole, 2),
                "objective_over_faiss": round(objective / reference - 1, 6),
            })  # fmt: skip
        child.stdin.close()
        child.wait()
        if args.record:
            args.record.parent.mkdir(parents=True, exist_ok=True)
            args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
