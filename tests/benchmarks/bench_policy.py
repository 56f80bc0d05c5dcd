"""What RandAugment costs: on a CPU one image at a time, and under vmap; ratios of one run.

    python tests/benchmarks/bench_policy.py [--size=224] [--batch=16]

Compares, interleaved: crop and flip alone; with two operations, in three forms; under vmap the two
operations switched between five families; and switched between 16 branches, each of which does all
of its own.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jssl.augment import _operations, _policy, batch_views, make_views

SPREAD = 7


def sixteen(levels, kind, arguments, places, style):
    branches = [
        lambda x, i=i: _operations.operation(x, jnp.int32(i), arguments, places, style)
        for i in range(len(_operations.OPERATIONS) + 1)
    ]
    return jax.lax.switch(kind, branches, levels)


def with_operation(operation, form):
    policy = _policy.Policy(form=form)

    def run(keys, images):
        def one(key, image):
            u = jax.random.uniform(key, (2, _policy.NUMBERS))
            x = jnp.floor(image.transpose(2, 0, 1) * 255).astype(jnp.int32)
            H, W = x.shape[1:]
            kinds, arguments = _policy.plan(u, policy, H, W)
            for i in range(2):
                a = jax.tree.map(lambda v, i=i: v[i], arguments)
                x = operation(x, kinds[i], a, u[i, 2:], policy.style(H, W))
            return x

        return jax.vmap(one)(keys, images)

    return jax.jit(run)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    images = jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))
    floats, keys = images / 255.0, jax.random.split(jax.random.key(0), args.batch)

    def recipe(name, **options):
        views = make_views(name, size=args.size, **options)
        compiled = jax.jit(lambda key, x: batch_views(views, key, x, 0))
        return lambda: compiled(keys[0], images)

    def vmapped(operation, form):
        compiled = with_operation(operation, form)
        return lambda: compiled(keys, floats)

    runs = {
        "recipe crop_flip (a view at a time on a CPU)": recipe("crop_flip"),
        "recipe with form tf": recipe("crop_flip", policy_ops=2),
        "recipe with form timm": recipe("crop_flip", policy_ops=2, policy_form="timm"),
        "recipe with form autoaugment": recipe(
            "crop_flip", policy_ops=2, policy_form="autoaugment"
        ),
        "vmap tf, five families": vmapped(_operations.operation, "tf"),
        "vmap tf, 16 branches": vmapped(sixteen, "tf"),
        "vmap timm, five families": vmapped(_operations.operation, "timm"),
        "vmap timm, 16 branches": vmapped(sixteen, "timm"),
    }
    for name, run in runs.items():
        began = time.perf_counter()
        jax.block_until_ready(run())
        print(f"{name}: first call {time.perf_counter() - began:.1f} s")
    times = {name: [] for name in runs}
    for _ in range(SPREAD):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - began)
    for name, found in times.items():
        print(f"{name}: {1e3 * np.median(found) / args.batch:.2f} ms an image")


if __name__ == "__main__":
    main()
