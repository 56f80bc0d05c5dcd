"""Times an AdamW step of ViT-Ti/16 at 224 px beside timm's in PyTorch, and says where it goes.

    python tests/benchmarks/bench_vit.py --timm_python PYTHON [--rounds 7] [--batch 16]

PYTHON is an interpreter with torch and timm, which are no dependencies. Both sides take the same
step (forward, cross entropy over 1000 classes, gradients, AdamW, float32, no stochastic depth) on
the same cores, each in its process, in turn: one waits while the other works. Prints images/s of
both and the pairwise ratio jssl / timm: minimum, median, maximum. Then a table of the time that
jssl's step spends by kind of operation, from XLA's own trace: over all threads, so that its sum may
be above the time of the step.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

LR, WEIGHT_DECAY = 1e-3, 0.05


def step_of_jssl(batch):
    import jax
    import optax

    from jssl import models
    from jssl.models.heads import Linear

    net, head = models.build({"name": "vit_tiny"}), Linear(1000)
    images = jax.random.normal(jax.random.key(0), (batch, 224, 224, 3))
    labels = jax.numpy.arange(batch) * 7
    optimizer = optax.adamw(LR, weight_decay=WEIGHT_DECAY)

    def init():
        variables = net.init(jax.random.key(1), images, train=False)["params"]
        features = jax.numpy.zeros((1, net.dim))
        params = (variables, head.init(jax.random.key(2), features)["params"])
        return params, optimizer.init(params)

    def loss(params):
        features, _ = net.apply({"params": params[0]}, images, train=True)
        logits = head.apply({"params": params[1]}, features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params, opt_state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params, opt_state = jax.jit(init)()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, opt_state).compile()
    holder = [(params, opt_state)]

    def run():
        *state, value = compiled(*holder[0])
        holder[0] = state
        jax.block_until_ready((state, value))

    return run, compiled.as_text()


def step_of_timm(batch):
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    images, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch) * 7
    cross_entropy = torch.nn.CrossEntropyLoss()

    def run():
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(net(images), labels).backward()
        optimizer.step()

    return run


def serve(batch):
    """The side of timm: a step for every line read, answered by its seconds."""
    run = step_of_timm(batch)
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def kinds_of(text):
    """What each instruction of the compiled program does: its name to a kind."""
    kinds = {}
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = \S+ ([\w-]+)\(", line)
        if not found:
            continue
        name, opcode = found.groups()
        place = re.search(r'op_name="([^"]*)"', line)
        place = place.group(1) if place else ""
        way = "backward" if "transpose(jvp" in place else "forward"
        if opcode in ("dot", "custom-call"):
            layer = re.findall(r"(qkv|proj|fc1|fc2|_patches|bhk|bkgs|BTNH|bhqk|head)", place)
            kinds[name] = f"{opcode} {layer[-1] if layer else place[-40:]} {way}"
        else:
            kinds[name] = f"{opcode} {way}"
    return kinds


def profile(run, text, steps=3):
    """Milliseconds a step by kind of operation, the longest first."""
    import jax

    kinds, total, longest = kinds_of(text), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kinds:
                    total[kinds[event.name]] += event.duration_ns / 1e6 / steps
                    longest[event.name] += event.duration_ns / 1e6 / steps
    return total, longest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm_python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--text", help="where to write the compiled program")
    parser.add_argument("--serve", action="store_true", help="used by the script itself")
    args = parser.parse_args()
    if args.serve:
        serve(args.batch)
        return
    run, text = step_of_jssl(args.batch)
    if args.text:
        pathlib.Path(args.text).write_text(text)
    for _ in range(3):
        run()
    if args.timm_python:
        command = [args.timm_python, __file__, "--serve", "--batch", str(args.batch)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as peer:
            assert peer.stdout.readline() == "ready\n"
            ours, theirs = [], []
            for _ in range(args.rounds):
                start = time.perf_counter()
                run()
                ours.append(time.perf_counter() - start)
                peer.stdin.write("\n")
                peer.stdin.flush()
                theirs.append(float(peer.stdout.readline()))
            peer.stdin.close()
        ratio = np.array(theirs) / np.array(ours)
        print(f"jssl: {args.batch / np.median(ours):.1f} images/s, {np.median(ours):.3f} s a step")
        print(f"timm: {args.batch / np.median(theirs):.1f} images/s, {np.median(theirs):.3f} s")
        print(
            f"jssl / timm: {ratio.min():.2f} .. {np.median(ratio):.2f} .. {ratio.max():.2f} "
            f"(minimum, median, maximum of {args.rounds})"
        )
    total, longest = profile(run, text)
    for name, ms in total.most_common(25):
        print(f"{ms:8.1f} ms  {name}")
    print("longest instructions:", ", ".join(f"{n} {ms:.1f}" for n, ms in longest.most_common(20)))


if __name__ == "__main__":
    main()
