"""Compiles SimCLR's step and a plain Flax step for a TPU, and counts their bytes an image.

    python tests/benchmarks/bench_bytes.py --record docs/benchmarks/bytes.json

Needs the extra fit-tpu; 2 minutes with `--effort=-1`, 20 with the effort of a run, 0. What the
record has is not compiled again. The plain step is the floor: torchvision's ResNet-50 of
`flax.linen` layers, bfloat16, statistics of each device, no augmentation, cross-entropy, SGD with
momentum. The parts are those of the kernels' names; a kernel that serves two counts for one.
"""

import argparse
import collections
import functools
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl.compile import devices as devices_lib
from jssl.compile import hlo, lengths
from jssl.compile import step as step_lib
from jssl.run import config_file

BATCH = 128  # examples a chip, of which SimCLR has two views


class ResNet50(nn.Module):
    """[B,h,w,3] -> logits [B,1000]."""

    @nn.compact
    def __call__(self, x, train):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
        norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=jnp.bfloat16)
        x = nn.relu(norm()(conv(64, (7, 7), 2, padding=3)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                width, stride = 64 * 2**stage, 2 if stage and not block else 1
                y = nn.relu(norm()(conv(width, (1, 1))(x)))
                y = nn.relu(norm()(conv(width, (3, 3), stride, padding=1)(y)))
                y = norm(scale_init=nn.initializers.zeros)(conv(4 * width, (1, 1))(y))
                if not block:
                    x = norm()(conv(4 * width, (1, 1), stride)(x))
                x = nn.relu(x + y)
        return nn.Dense(1000, dtype=jnp.bfloat16)(jnp.mean(x, (1, 2))).astype(jnp.float32)


def plain_training(side, axis_name=None):
    """Returns `init` and the supervised step of the plain network, on squares of `side` pixels."""
    net, tx = ResNet50(), optax.sgd(0.1, momentum=0.9)

    def init():
        variables = net.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), True)
        return variables, tx.init(variables["params"])

    def step(state, images, labels):
        variables, moments = state

        def loss_fn(params):
            logits, updated = net.apply(
                {**variables, "params": params}, images, True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(loss), updated

        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        if axis_name is not None:
            grads, loss, updated = jax.lax.pmean((grads, loss, updated), axis_name)
        updates, moments = tx.update(grads, moments)
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, **updated}, moments), {"loss": loss}

    return init, step


def plain_step(topology, devices, effort):
    init, step = plain_training(224, "batch")
    mapped = jax.pmap(step, "batch", in_axes=(None, 0, 0), out_axes=None, donate_argnums=0,
                      devices=devices)  # fmt: skip
    shape = (len(devices), BATCH)
    images = jax.ShapeDtypeStruct((*shape, 224, 224, 3), jnp.bfloat16)
    labels = jax.ShapeDtypeStruct(shape, jnp.int32)
    lowered = mapped.lower(jax.eval_shape(init), images, labels)
    return step_lib.compiled(lowered, topology, effort=effort), BATCH


def simclr_step(topology, devices, effort):
    config = config_file.load("configs/simclr_imagenet.py")
    config.batch_size = BATCH * len(devices)
    lengths.set_lengths(config, 1_281_167)
    return step_lib.compile_step(config, topology, devices, effort=effort), 2 * BATCH


STEPS = {"plain Flax ResNet-50, supervised": plain_step, "simclr_imagenet": simclr_step}


def part(line):
    """Returns the part of a step that a kernel belongs to, by the name of its operation."""
    name = re.search(r'op_name="([^"]*)"', line.rest)
    name = name[1] if name else ""
    if "transpose(jvp" in name:
        return "backward"
    if "jvp(" in name:
        return "forward"
    return "augmentation" if re.search("cond|vmap|where|reverse", name) else "rest"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:4x8")
    parser.add_argument("--effort", type=float, default=-1.0)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    topology = devices_lib.prepare(args.topology)
    devices = devices_lib.open_devices(topology)
    rows = json.loads(args.record.read_text())["rows"] if args.record.exists() else []
    for name, compile_step in STEPS.items():
        if any((row["step"], row["effort"]) == (name, args.effort) for row in rows):
            continue
        result, images = compile_step(topology, devices, args.effort)
        parts = collections.Counter()
        for line, size in hlo.touched_by(result.text):
            parts[part(line)] += size / images / 1e9
        row = {
            "step": name,
            "effort": args.effort,
            "images": images,
            "gigabytes_an_image": round(result.bytes_accessed / images / 1e9, 4),
            "by_part": {key: round(value, 4) for key, value in sorted(parts.items())},
            "teraflop": round(result.flops / 1e12, 3),
            "all_reduces": result.collectives["all-reduce"].count,
        }
        print(json.dumps(row))
        rows.append(row)
        result = {"topology": args.topology, "jax": jax.__version__, "rows": rows}
        args.record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
