"""Times a training step of each method beside SimCLR's and beside the passes that it needs.

    python tests/benchmarks/bench_methods.py [--rounds 5] [--only moco,byol]

Every method gets the same backbone (ResNet-18, CIFAR stem), 32 px tiles and batch 32 on one
device; CPC that of configs/cpc_photos.py, as its encoder sees patches of 8 px, and is set beside
SimCLR with that backbone (its 49 patches have 3 times the pixels of the tile). The model of a step
is the sum of what it cannot do without, each timed alone in the same run: making its views, forward
passes, and forward with backward passes of its encoders, all in training mode. CPC's parts are its
augmented patches, and encoder with context networks forward and backward. Everything is compiled
first; the steps and parts are then timed in turn, and the medians compared. Prints images/s, and
the ratio of the step to its model.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from helpers import get_config, small_config, tiles

from jssl import augment, models
from jssl.methods import cpc
from jssl.parallel.launcher import make_launcher
from jssl.run import build

BATCH = 32
# encoder passes over a batch of one view: (forward and backward, forward only)
PASSES = {
    "simclr": (2, 0),
    "moco": (1, 1),  # queries; keys
    "moco_v3": (2, 2),
    "byol": (2, 2),
    "cmc": (2, 0),  # an encoder for L and one for ab
    "cpc": (1, 0),  # over all patches, with the context networks
}


def config_of(name):
    config = get_config("cpc_photos") if name == "cpc" else small_config(name)
    config.batch_size = BATCH
    config.launch = "jit"
    if name != "cpc":
        config.model.update({"name": "resnet18", "stage_sizes": (), "width": 1.0})
    config.run.update({"num_examples": 3200, "steps_per_epoch": 100, "total_steps": 500})
    return config


def step_of(name, model=None):
    config = config_of(name)
    if model is not None:
        config.model.update(model)
    launcher = make_launcher("jit")
    method, _ = build.make_method(config, axis_name=None)
    holder = [launcher.init(lambda: build.first_state(config, method, BATCH))]
    step = launcher.compile_step(method.train_step)
    batch = launcher.put_batch(tiles(BATCH))

    def run():
        state, metrics = step(holder[0], batch, np.int32(holder[0].step))
        holder[0] = state
        jax.block_until_ready(metrics)

    views = jax.jit(patches_of(config, method.views) if name == "cpc" else method.views)

    def make_views():
        jax.block_until_ready(views(jax.random.key(0), batch["image"], jnp.int32(0)))

    return run, make_views


def patches_of(config, views):
    """CPC's augmented patches of a batch."""
    s = config.cpc
    chances = {k: s[k] for k in ("drop_p", "operations", "warp_p", "jitter_p", "gray_p")}

    def patches(key, images, first):
        x = augment.extract_patches(views(key, images, first)[0], patch=s.patch, stride=s.stride)
        return augment.augment_patches(key, x, first, **chances)

    return patches


def passes_of_cpc(config):
    """CPC's encoder and context networks on the patches of a batch, forward with backward."""
    net, s = cpc.make_net(config), config.cpc
    side = augment.patch_grid(config.augment.size, s.patch, s.stride)
    x = jax.random.normal(jax.random.key(0), (BATCH, side, side, s.patch, s.patch, 3))
    params = jax.jit(lambda: net.init(jax.random.key(1), x, train=True))()["params"]

    def loss(params):
        found, _ = net.apply({"params": params}, x, train=True)
        return sum(jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(found))

    both = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(both(params))


def passes_of(config, channels, views=1):
    """The encoder alone on `views` views in one batch: forward, and forward with backward."""
    net = models.build(config.model)
    x = jax.random.normal(jax.random.key(0), (BATCH * views, 32, 32, channels))
    variables = jax.jit(lambda: net.init(jax.random.key(1), x, train=True))()

    def apply(params):
        (h, _), stats = net.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(jnp.square(h)), stats

    forward, both = jax.jit(apply), jax.jit(jax.value_and_grad(apply, has_aux=True))
    params = variables["params"]
    return (
        lambda: jax.block_until_ready(both(params)),
        lambda: jax.block_until_ready(forward(params)),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PASSES))
    args = parser.parse_args()
    names = ["simclr", *(n for n in args.only.split(",") if n != "simclr")]
    unknown = set(names) - set(PASSES)
    if unknown:
        parser.error(f"no model of a step of {sorted(unknown)}; expected some of {list(PASSES)}")
    work = {}
    for name in names:
        work[name], work[f"{name} views"] = step_of(name)
    config = config_of("simclr")
    work["both"], work["forward"] = passes_of(config, 3)
    # SimCLR's one pass over both views is a batch of twice the size, which is faster than two.
    work["both 2"], _ = passes_of(config, 3, views=2)
    if "cpc" in names:
        work["cpc passes"] = passes_of_cpc(config_of("cpc"))
        work["simclr, cpc's backbone"], _ = step_of("simclr", config_of("cpc").model)
    for run in work.values():
        run()
    seconds = {name: [] for name in work}
    for _ in range(args.rounds):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    t = {name: float(np.median(values)) for name, values in seconds.items()}
    for name in names:
        with_backward, forward = PASSES[name]
        encoder = with_backward * t["both"] + forward * t["forward"]
        if name == "simclr":
            encoder = t["both 2"]
        elif name == "cpc":
            encoder = t["cpc passes"]
        beside = t["simclr, cpc's backbone" if name == "cpc" else "simclr"]
        model = t[f"{name} views"] + encoder
        print(
            f"{name:>8}: {BATCH / t[name]:6.1f} images/s, step {t[name]:.3f} s, "
            f"model {model:.3f} s (views {t[f'{name} views']:.3f}, passes {encoder:.3f}), "
            f"step / model {t[name] / model:.2f}, of SimCLR's time {t[name] / beside:.2f}"
        )


if __name__ == "__main__":
    main()
