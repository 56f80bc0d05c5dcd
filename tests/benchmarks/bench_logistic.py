"""Logistic regression along the grid of 45, beside scikit-learn's, in one run. Run by hand:

python tests/benchmarks/bench_logistic.py [--values=45] [--tolerance=1e-5] [--tpu] \\
    [--record=docs/benchmarks/logistic.json]

50,000 x 512 features of ten classes that overlap, float32. Both walk the same grid, from the
largest lambda to the smallest, and end a fit by the same rule: no entry of the gradient of mean
loss + penalty is above the tolerance, of which jssl is given a tenth. scikit-learn runs twice: each
fit from zero, as LogisticRegression does by default, and each from the one before (warm_start).
The objectives of all fits are compared in float64.

--tpu compiles 50,000 x 2048 for one TPU v5e chip that is not there, in place of all this (needs the
extra fit-tpu).
"""

import argparse
import importlib.metadata
import json
import pathlib
import time
import warnings

import numpy as np


def data(M, D, K, seed):
    """Rectified, correlated, of a decaying spectrum, as a backbone's features."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centres, mix = fixed.normal(size=(K, D)), np.linalg.qr(fixed.normal(size=(D, D)))[0]
    labels = rng.integers(0, K, M)
    x = (0.08 * centres[labels] + rng.normal(size=(M, D))) / np.sqrt(np.arange(1, D + 1))
    return np.maximum(3 * x @ mix, 0).astype(np.float32), labels


def objective(x, y, kernel, bias, lam):
    """Mean loss + lambda / (2 M) |W|^2 in float64."""
    z = x.astype(np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    z -= z.max(axis=1, keepdims=True)
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return loss.mean() + lam / (2 * len(y)) * np.sum(np.square(kernel, dtype=np.float64))


def compare(values, tolerance):
    import jax
    from sklearn.linear_model import LogisticRegression

    from jssl.evaluate import fit_logistic

    x, y = data(50_000, 512, 10, 1)
    grid = np.logspace(5, -6, values)  # of the sum of the losses: C = 1 / lambda

    def ours():
        path = fit_logistic(
            x, y, num_classes=10, regularizers=grid, reduction="sum", tolerance=tolerance / 10
        )
        return jax.block_until_ready(path)

    def theirs(warm):
        model = LogisticRegression(tol=tolerance, max_iter=2000, warm_start=warm)
        found = []
        for lam in grid:
            model.set_params(C=1 / lam).fit(x, y)
            found.append((model.coef_.T.copy(), model.intercept_.copy(), int(model.n_iter_[0])))
        return found

    def clock(call):
        started = time.perf_counter()
        return call(), time.perf_counter() - started

    _, first = clock(ours)
    path, mine = clock(ours)
    warm, warm_seconds = clock(lambda: theirs(True))
    cold, cold_seconds = clock(lambda: theirs(False))
    _, again = clock(ours)
    print(f"jssl          {mine:7.2f} and {again:.2f} s, first call {first:.2f} s with "
          f"compilation, {path.iterations.sum()} iterations")  # fmt: skip
    for name, found, seconds in (("warm", warm, warm_seconds), ("cold", cold, cold_seconds)):
        print(f"scikit-learn  {seconds:7.2f} s {name}, {sum(f[2] for f in found)} iterations: "
              f"{seconds / max(mine, again):.1f} times as long; with our compilation "
              f"{seconds / first:.1f}")  # fmt: skip
    own = np.array([objective(x, y, *path.head(i), lam) for i, lam in enumerate(grid)])
    for name, found in (("warm", warm), ("cold", cold)):
        other = np.array([objective(x, y, *f[:2], lam) for f, lam in zip(found, grid, strict=True)])
        gap = own - other
        print(f"objective, jssl less scikit-learn {name}: largest {gap.max():+.2e}, smallest "
              f"{gap.min():+.2e}, median {np.median(gap):+.2e}")  # fmt: skip
    print(f"largest gradient of jssl {path.gradients.max():.2e}")
    return {
        "regularisers": values,
        "tolerance": tolerance,
        "jssl_seconds": [round(x, 2) for x in (mine, again)],
        "jssl_first_seconds": round(first, 2),
        "scikit_learn_seconds": {"warm": round(warm_seconds, 2), "cold": round(cold_seconds, 2)},
        "largest_objective_gap": float(f"{gap.max():.2e}"),  # jssl's less that of the cold ones
        "versions": {k: importlib.metadata.version(k) for k in ("jax", "scikit-learn")},
    }


def tpu():
    from jssl.compile import devices

    topology = devices.prepare("v5e:1x1")
    import jax
    import jax.numpy as jnp

    from jssl.evaluate.probes.logistic_lbfgs import _centred, _walk

    here = jax.sharding.SingleDeviceSharding(devices.open_devices(topology)[0])

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    M, D = 50_000, 2048
    parts = array(M, D), array(D), array(D), array(D, D), array(M, dtype=jnp.int32), array(45)
    for name, lowered in (
        ("mean and covariance", _centred.lower(array(M, D))),
        ("walk", _walk.lower(*parts, array(), num_classes=10, max_iterations=200)),
    ):
        started = time.perf_counter()
        memory = lowered.compile().memory_analysis()
        held = [getattr(memory, f"{k}_size_in_bytes") for k in ("argument", "output", "temp")]
        print(f"{topology.text} {name}: compiled in {time.perf_counter() - started:.0f} s, "
              f"{sum(held) / 2**30:.2f} GiB of 16", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=45)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--tpu", action="store_true")
    parser.add_argument("--record", type=pathlib.Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.tpu:
        tpu()
    else:
        warnings.simplefilter("error")  # scikit-learn warns where it gave up
        record = compare(options.values, options.tolerance)
        if options.record:
            options.record.parent.mkdir(parents=True, exist_ok=True)
            options.record.write_text(json.dumps(record, indent=1) + "\n")
