"""Times a training step of each method beside SimCLR's and beside the passes that it needs.

    python tests/benchmarks/bench_methods.py --record docs/benchmarks/methods.json [--rounds 5]

Most methods get the same backbone (ResNet-18, CIFAR stem), 32 px tiles and batch 32 on one device.
CPC has that of configs/cpc_photos.py, as its encoder sees patches of 8 px, and is set beside
SimCLR with that backbone (its 49 patches have 3 times the pixels of the tile). DeiT has a
ViT-Ti with patches of 4 px; BEiT and the dVAE have the networks of configs/METHOD_photos.py.

The model of a step is the sum of what it cannot do without, each timed alone in the same run:
making its inputs, forward passes, and forward with backward passes of its encoders, all in training
mode (DeiT's teacher in evaluation mode). CPC's passes contain its context networks, and its loss is
a part, as it has 4 x 1,344 x 1,568 logits. Heads on a ResNet, other losses, moving averages and
the optimiser are not in the model. Everything is compiled first; the steps and parts are then timed
in turn, and the medians compared. Prints images/s, and the ratio of the step to its model.

`--only moco,byol` times these and SimCLR. Rows of a record that were not timed again stay.
"""

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import turns

sys.path.insert(0, str(Path(__file__).parents[1]))

from jssl import augment, losses, models
from jssl.methods import beit, cpc, deepcluster_v2, deit, dvae, noisy_student
from jssl.methods._common import input_functions
from jssl.parallel.launcher import make_launcher, placed
from jssl.run import build
from jssl.types import RunLengths

from helpers import get_config, small_config, tiles  # isort: skip

BATCH, EXAMPLES = 32, 3200
# What a step cannot do without, by the names of PARTS, and how often.
PASSES = {
    "simclr": ["two views"],  # one pass over both, which is faster than two
    "moco": ["one view", "forward"],  # queries; keys
    "moco_v3": ["one view", "one view", "forward", "forward"],
    "byol": ["one view", "one view", "forward", "forward"],
    "vicreg": ["one view", "one view"],
    "cmc": ["one view", "one view"],  # an encoder for L and one for ab
    "deepcluster": ["one view"],
    "deepcluster_v2": ["two views", "two small views"],
    "supervised": ["one view"],
    "noisy_student": ["three views"],  # a labelled image and two others
    "cpc": ["cpc", "cpc's loss"],  # over all patches, with the context networks
    "deit": ["deit", "deit's teacher"],
    "beit": ["beit", "beit's tokenizer"],
    "dvae": ["dvae"],
}
OWN_NETWORK = ("cpc", "deit", "beit", "dvae")


def config_of(name):
    if name in ("cpc", "dvae", "beit"):
        config = get_config(f"{name}_photos", "tokenizer=random" if name == "beit" else "")
    else:
        config = small_config(name)
    config.batch_size = BATCH
    config.launch = "jit"
    if name == "beit":
        beit.resolve(config, get_config("dvae_photos"))
    if name == "deit":  # all of ViT-Ti; the teacher stays small
        config.model.update({"depth": 0, "heads": 0, "width": 1.0, "patch_size": 4})
    elif name not in OWN_NETWORK:
        config.model.update({"name": "resnet18", "stage_sizes": (), "width": 1.0})
    config.run.update({"num_examples": EXAMPLES, "steps_per_epoch": 100, "total_steps": 500})
    return config


def step_of(name, model=None):
    """A compiled step, and the making of its inputs alone."""
    config = config_of(name)
    if model is not None:
        config.model.update(model)
    launcher = make_launcher("jit")
    method, _ = build.make_method(config, axis_name=None)
    state = clustered(launcher.init(lambda: build.first_state(config, method, BATCH)))
    holder = [placed(launcher, state)]
    step = launcher.compile_step(method.train_step)
    batch = launcher.put_batch(tiles(BATCH))

    def run():
        state, metrics = step(holder[0], batch, np.int32(holder[0].step))
        holder[0] = state
        jax.block_until_ready(metrics)

    make = jax.jit(inputs_of(name, config, method.views))

    def make_inputs():
        jax.block_until_ready(make(jax.random.key(0), batch))

    return run, make_inputs


def clustered(state):
    """The state with a cluster for every example, as the pass before an epoch gives them."""
    if not hasattr(state, "assignments"):
        return state
    clusters = jnp.broadcast_to(jnp.arange(EXAMPLES, dtype=jnp.int32) % 8, state.assignments.shape)
    if hasattr(state, "prototypes"):
        rows = tuple(jax.random.normal(jax.random.key(2), p.shape) for p in state.prototypes)
        state = state.replace(prototypes=rows)
    return state.replace(assignments=clusters)


def inputs_of(name, config, views):
    """A method's `(key, batch) -> inputs` of its networks."""
    if name == "cpc":
        return lambda key, batch: patches_of(config, views)(key, batch["image"], jnp.int32(0))
    if name == "deit":
        return deit.make_inputs(config, None)
    if name == "noisy_student":

        def joined(key, batch):
            images, rows = noisy_student.joined(batch, None)
            return views(key, images, rows)

        return joined
    if name == "deepcluster_v2":
        crops = deepcluster_v2.make_crops(config, *input_functions(config))
        return lambda key, batch: crops(key, batch["image"], jnp.int32(0))
    if name == "beit":
        second = beit.token_views(config)

        def both(key, batch):
            images, first = batch["image"], jnp.int32(0)
            masks = beit.masks(config, key, jnp.arange(BATCH))
            return views(key, images, first), second(key, images, first), masks

        return both
    return lambda key, batch: views(key, batch["image"], jnp.int32(0))


def patches_of(config, views):
    """CPC's augmented patches of a batch."""
    s = config.cpc
    chances = {k: s[k] for k in ("drop_p", "operations", "warp_p", "jitter_p", "gray_p")}

    def patches(key, images, first):
        x = augment.extract_patches(views(key, images, first)[0], patch=s.patch, stride=s.stride)
        return augment.augment_patches(key, x, first, **chances)

    return patches


def passes_of(net, *inputs, pick=lambda found: found[0], backward=True, **options):
    """A network's forward pass, and the backward pass of what `pick` takes of its outputs."""
    variables = jax.jit(lambda: net.init(jax.random.key(1), *inputs, **options))()

    def loss(params):
        variables_of = {**variables, "params": params}
        found, updated = net.apply(variables_of, *inputs, **options, mutable=["batch_stats"])
        leaves = jax.tree.leaves(pick(found))
        return sum(jnp.mean(jnp.square(leaf)) for leaf in leaves), updated

    params = variables["params"]
    run = jax.jit(jax.value_and_grad(loss, has_aux=True) if backward else loss)
    return lambda: jax.block_until_ready(run(params))


def noise(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def backbone(views=1, side=32, backward=True):
    """The ResNet on `views` views in one batch."""
    net = models.build(config_of("simclr").model)
    return passes_of(net, noise(BATCH * views, side, side, 3), backward=backward, train=True)


def passes_of_cpc():
    config = config_of("cpc")
    s = config.cpc
    side = augment.patch_grid(config.augment.size, s.patch, s.stride)
    return passes_of(
        cpc.make_net(config), noise(BATCH, side, side, s.patch, s.patch, 3), train=True
    )


def loss_of_cpc():
    config = config_of("cpc")
    s = config.cpc
    side = augment.patch_grid(config.augment.size, s.patch, s.stride)
    targets = noise(BATCH, side, side, s.target_dim)
    outputs = {
        d: ({k: targets[:, : side - k] for k in cpc.offsets_of(config)}, targets)
        for d in s.directions
    }

    def loss(outputs):
        return losses.directions_info_nce(outputs, scale=s.scale, groups=1, axis_name=None)[0]

    run = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(run(outputs))


def passes_of_deit():
    net, x = deit.make_net(config_of("deit"), None), noise(BATCH, 32, 32, 3)
    return passes_of(net, x, pick=lambda found: found[:2], train=True)


def teacher_of_deit():
    config = config_of("deit")
    method, _ = build.make_method(config, axis_name=None)
    state = jax.jit(lambda: build.first_state(config, method, BATCH).teacher)()
    teacher, _ = deit.make_teacher(config, RunLengths(EXAMPLES, 100, 500))
    run, x = jax.jit(lambda state, x: teacher.embed(state, x)[1]["logits"]), noise(BATCH, 32, 32, 3)
    return lambda: jax.block_until_ready(run(state, x))


def passes_of_beit():
    config = config_of("beit")
    mask, places, _ = beit.masks(config, jax.random.key(0), jnp.arange(BATCH))
    net, x = beit.make_net(config, None), noise(BATCH, 32, 32, 3)
    return passes_of(net, x, True, mask, places, pick=lambda logits: logits)


def tokenizer_of_beit():
    config = config_of("beit")
    patches = config.augment.size // config.model.patch_size
    side = patches * 2 ** (config.beit.groups - 1)
    return passes_of(beit.make_tokenizer(config), noise(BATCH, side, side, 3), backward=False)


def passes_of_dvae():
    net = dvae.make_net(config_of("dvae"), None)
    inputs = (noise(BATCH, 32, 32, 3), jax.random.key(2), jnp.arange(BATCH), 1.0)
    return passes_of(net, *inputs, pick=lambda found: found)


PARTS = {
    "one view": backbone,
    "forward": functools.partial(backbone, backward=False),
    "two views": functools.partial(backbone, 2),
    "two small views": functools.partial(backbone, 2, 16),
    "three views": functools.partial(backbone, 3),
    "cpc": passes_of_cpc,
    "cpc's loss": loss_of_cpc,
    "deit": passes_of_deit,
    "deit's teacher": teacher_of_deit,
    "beit": passes_of_beit,
    "beit's tokenizer": tokenizer_of_beit,
    "dvae": passes_of_dvae,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PASSES))
    parser.add_argument("--record", help="the JSON file that gets a row for each method")
    args = parser.parse_args()
    names = ["simclr", *(n for n in args.only.split(",") if n != "simclr")]
    unknown = set(names) - set(PASSES)
    if unknown:
        parser.error(f"no model of a step of {sorted(unknown)}; expected some of {list(PASSES)}")
    work = {}
    for name in names:
        work[f"{name}: step"], work[f"{name}: inputs"] = step_of(name)
        work.update({part: PARTS[part]() for part in PASSES[name] if part not in work})
    if "cpc" in names:
        work["simclr, cpc's backbone"], _ = step_of("simclr", config_of("cpc").model)
    seconds = {name: [] for name in work}
    for run in work.values():
        run()
    for _ in range(args.rounds):
        for name, run in work.items():
            seconds[name].append(turns.timed(run))
    t = {name: float(np.median(values)) for name, values in seconds.items()}
    for name in names:
        step, inputs = t[f"{name}: step"], t[f"{name}: inputs"]
        passes = sum(t[part] for part in PASSES[name])
        beside = t["simclr, cpc's backbone" if name == "cpc" else "simclr: step"]
        print(
            f"{name:>14}: {BATCH / step:6.1f} images/s, step {step:.3f} s, "
            f"model {inputs + passes:.3f} s (inputs {inputs:.3f}, passes {passes:.3f}), "
            f"step / model {step / (inputs + passes):.2f}, of SimCLR's time {step / beside:.2f}"
        )
        if args.record:
            row = {
                "step": seconds[f"{name}: step"],
                "inputs": seconds[f"{name}: inputs"],
                "passes": [[count, part, seconds[part]] for part, count in counted(name)],
                "batch": BATCH,
                "versions": turns.versions(["jax"]),
            }
            turns.write(args.record, name, row)


def counted(name):
    """The parts of a method's step, and how often each comes."""
    return Counter(PASSES[name]).items()


if __name__ == "__main__":
    main()
