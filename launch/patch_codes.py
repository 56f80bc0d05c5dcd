"""What codes of patches can reach without their neighbours: the rate and the error of k-means.

The record is the table of k-means in docs/ablations.md.

    python launch/patch_codes.py --output=configs/results/patch_kmeans.json
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jssl import files
from jssl.data import photos
from jssl.evaluate import constant_patch_error
from jssl.run import versions
from jssl.state import kmeans

SIDE, TRAINED_ON, ITERATIONS = 4, 60_000, 10  # pixels; patches; of k-means
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def patches(images):
    """Tiles uint8 [N,H,W,3] as patches float32 [M, SIDE * SIDE * 3] in [0, 1]."""
    N, H, W, C = images.shape
    parts = images.reshape(N, H // SIDE, SIDE, W // SIDE, SIDE, C).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(-1, SIDE * SIDE * C).astype(np.float32) / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    (train, _), (test, _) = photos.load("train"), photos.load("test")
    points, queries = patches(train), patches(test)
    chosen = np.random.default_rng(0).choice(len(points), TRAINED_ON, replace=False)
    points = points[chosen] - points.mean(0)
    shifted = queries - patches(train).mean(0)
    constant = constant_patch_error(test / np.float32(255), patch=SIDE)
    rows = []
    for k in SIZES:
        result = kmeans(jax.random.key(0), jnp.asarray(points), k=k, iterations=ITERATIONS)
        codes = np.asarray(kmeans(jax.random.key(0), jnp.asarray(shifted), k=k, iterations=0,
                                  init=result.centroids).assignments)  # fmt: skip
        error = float(np.mean((shifted - np.asarray(result.centroids)[codes]) ** 2))
        share = np.bincount(codes, minlength=k) / len(codes)
        entropy = float(-np.sum(share[share > 0] * np.log(share[share > 0])))
        rows.append({"k": k, "ratio": round(error / constant, 4), "entropy": round(entropy, 3)})
        print(rows[-1], flush=True)
    files.write_json(output, {"rows": rows, "patches": TRAINED_ON, "iterations": ITERATIONS,
                              "versions": versions.collect()})  # fmt: skip


if __name__ == "__main__":
    main()
