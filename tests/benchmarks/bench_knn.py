"""Times kNN of 1,000 queries on a bank of ImageNet's size beside faiss's flat index.

    python tests/benchmarks/bench_knn.py --peer-python PYTHON [--bank 1281167] [--rounds 3]
        [--record docs/benchmarks/knn.json]

PYTHON has faiss-cpu. The bank lies in a file as float16: 5.2 GB for 1,281,167 x 2,048. jssl reads
it as it is; faiss's flat index holds it as float32. Both times are those of a search, without
reading the file; jssl's has the votes in addition. The votes of faiss's neighbours are compared
with jssl's.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import turns

CLASSES, K, TEMPERATURE = 1000, 20, 0.1


def make_files(folder, size, dim, count):
    """Writes a bank of unit rows around a centre for each class, and queries likewise."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, dim), dtype=np.float32)

    def rows(number):
        labels = rng.integers(0, CLASSES, number)
        x = 0.5 * centres[labels] + rng.standard_normal((number, dim), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True), labels

    bank = np.lib.format.open_memmap(folder / "bank.npy", "w+", np.float16, (size, dim))
    labels = np.empty(size, np.int32)
    for start in range(0, size, 32768):
        x, labels[start : start + 32768] = rows(min(32768, size - start))
        bank[start : start + 32768] = x
    bank.flush()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "queries.npy", rows(count)[0])


def make_faiss(folder):
    """A search in faiss's flat index of inner products; its neighbours are written to a file."""
    import faiss

    folder = Path(folder)
    bank, queries = np.load(folder / "bank.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    index = faiss.IndexFlatIP(bank.shape[1])
    for start in range(0, len(bank), 32768):
        block = bank[start : start + 32768].astype(np.float32)
        index.add(block / np.linalg.norm(block, axis=1, keepdims=True))

    def run():
        similarity, where = index.search(queries, K)
        np.savez(folder / "neighbours.npz", similarity=similarity, where=where)

    return run


def votes_of(folder):
    """The shares of votes by faiss's neighbours, float64 [Q,K]."""
    found, labels = np.load(folder / "neighbours.npz"), np.load(folder / "labels.npy")
    similarity = found["similarity"].astype(np.float64)
    weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / TEMPERATURE)
    votes = np.zeros((len(similarity), CLASSES))
    np.add.at(votes, (np.arange(len(votes))[:, None], labels[found["where"]]), weights)
    return votes / votes.sum(axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--bank", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--serve", help="used by the script itself")
    parser.add_argument("folder", nargs="?", help="used by the script itself")
    args = parser.parse_args()
    if args.serve:
        turns.serve(lambda: make_faiss(args.folder), 1, ("faiss-cpu",))
        return
    import jax.numpy as jnp

    from jssl.evaluate import knn_predict

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, args.bank, args.dim, args.queries)
        labels, queries = np.load(folder / "labels.npy"), np.load(folder / "queries.npy")
        bank = jnp.asarray(np.load(folder / "bank.npy", mmap_mode="r"))
        shares = []

        def run():
            _, scores = knn_predict(
                bank, labels, queries, num_classes=CLASSES, k=K, temperature=TEMPERATURE
            )
            shares[:] = [np.asarray(scores)]

        with turns.Peer(args.peer_python, __file__, "faiss", folder) as peer:
            seconds = turns.in_turn(run, peer, rounds=args.rounds, warm_up=1)
            peak = {"jssl": turns.peak_memory(), "peer": peer.peak_memory()}
        difference = np.abs(shares[0] - votes_of(folder)).max(axis=1)
    work = f"kNN, {args.queries:,} queries on {args.bank:,} x {args.dim:,}"
    row = {
        "peer": "faiss, flat",
        "seconds": seconds,
        "peak_bytes": peak,
        "versions": {**turns.versions(["jax"]), **peer.versions},
        "same_votes": float(np.mean(difference < 1e-3)),
    }
    turns.show(work, row)
    print(json.dumps({key: row[key] for key in ("peak_bytes", "same_votes")}))
    if args.record:
        turns.write(args.record, work, row)


if __name__ == "__main__":
    main()
