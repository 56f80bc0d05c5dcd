"""Times an AdamW step of ViT-Ti/16 at 224 px beside timm's in PyTorch, and says where it goes.

    python tests/benchmarks/bench_vit.py --peer-python=PYTHON --record docs/benchmarks/vit.json

PYTHON is an interpreter with torch and timm, which are no dependencies; torch.compile also needs a
C++ compiler. Both sides take the same step (forward, cross entropy over 1000 classes, gradients,
AdamW, float32, no stochastic depth) on the same cores, in turn: see `turns`. jssl keeps freed
memory as `jssl train` does on a CPU. Then a table of the time that jssl's step spends by kind of
operation, from XLA's own trace: over all threads, so that its sum may be above the time of a step.
"""

import argparse
import collections
import functools
import pathlib
import re
import tempfile

import turns

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


def step_of_timm(batch, compiled=False):
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    images, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch) * 7
    cross_entropy = torch.nn.CrossEntropyLoss()

    forward = torch.compile(net) if compiled else net

    def run():
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(forward(images), labels).backward()
        optimizer.step()

    return run


def kinds_of(text):
    """What each instruction of the compiled program does: its name to a kind."""
    kinds, with_dot, inside = {}, set(), ""
    for line in text.splitlines():
        if begin := re.match(r"%?([\w.-]+) \(.*\{$", line):
            inside = begin.group(1)
        found = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\S+) ([\w-]+)\(", line)
        if not found:
            continue
        name, shape, opcode = found.groups()
        if opcode == "dot":
            with_dot.add(inside)
        calls = re.search(r"calls=%?([\w.-]+)", line)
        has_dot = opcode == "dot" or bool(calls and calls.group(1) in with_dot)
        place = re.search(r'op_name="([^"]*)"', line)
        place = place.group(1) if place else ""
        layer = re.findall(r"(qkv|proj|fc1|fc2|_patches|_attention|_mlp|norm|head)", place)
        way = "backward" if "transpose(jvp" in place else "forward"
        what = f"product to {shape.split('{')[0]}" if has_dot else opcode
        kinds[name] = f"{way} {layer[-1] if layer else 'rest'}: {what}"
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


PEERS = {
    "timm": step_of_timm,
    "timm, torch.compile": functools.partial(step_of_timm, compiled=True),
}


def compare(run, args):
    """A row for each peer."""
    for name in PEERS:
        with turns.Peer(args.peer_python, __file__, name, f"--batch={args.batch}") as peer:
            seconds = turns.in_turn(run, peer, rounds=args.rounds)
        row = {
            "peer": name,
            "seconds": seconds,
            "batch": args.batch,
            "versions": {**turns.versions(["jax"]), **peer.versions},
        }
        work = f"ViT-Ti/16 step, batch {args.batch}, beside {name}"
        turns.show(work, row)
        if args.record:
            turns.write(args.record, work, row)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="a Python that has torch and timm")
    parser.add_argument("--record", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--text", type=pathlib.Path, help="where to write the compiled program")
    parser.add_argument("--serve", choices=PEERS, help="used by the script itself")
    args = parser.parse_args()
    if args.serve:
        turns.serve(lambda: PEERS[args.serve](args.batch), packages=("torch", "timm"))
        return
    from jssl.run import host_memory

    host_memory.keep_freed()
    run, text = step_of_jssl(args.batch)
    if args.text:
        args.text.write_text(text)
    if args.peer_python:
        compare(run, args)
    total, longest = profile(run, text)
    for name, ms in total.most_common(25):
        print(f"{ms:8.1f} ms  {name}")
    print("longest instructions:", ", ".join(f"{n} {ms:.1f}" for n, ms in longest.most_common(20)))


if __name__ == "__main__":
    main()
