"""Trains SimCLR, MoCo v2 and BYOL with jssl and with lightly on the same tiles, side by side.

Run by hand with jssl's Python; lightly, torch and torchvision are in an environment of their own:

    python tests/benchmarks/compare_lightly.py --lightly-python PYTHON --runs runs/lightly \\
        --record docs/benchmarks/lightly.json [--methods simclr,moco,byol] [--seeds 0,1,2]

Both train ResNet-8 (32, 64, 128 channels, CIFAR stem, He init) on the 3,200 tiles of `photos` with
AdamW 1e-3, weight decay 1e-4 on kernels (jssl's MoCo: on everything, as its paper), half an epoch
of warm-up, cosine, batch 32, and crops, mirror, jitter of strength 0.5 and greyscale; the heads,
temperatures and momenta are those of configs/METHOD_photos.py. Each library draws its augmentations
and computes its losses itself.
The kNN top-1 (k=20, cosine, weights exp(s/0.1), running statistics) is taken before the first and
after every epoch. The record is written again after every run, and a second start goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SAME = (
    "--config.augment.name=simclr_cifar",
    "--config.augment.normalize=none",
    "--config.model.kernel_init=he_fan_out",
    "--config.model.shortcut=when_needed",
    "--config.model.padding=symmetric",
    "--config.model.zero_init_last_gamma=False",
    "--config.optim.order=lr_inside",
    "--config.optim.weight_decay=1e-4",
    "--config.final.linear_epochs=1",
)
OWN = {"byol": ("--config.augment.options.blur_p=0.0", "--config.byol.num_classes=-1")}
QUEUE, MOCO_MOMENTUM, BYOL_MOMENTUM = 1024, 0.99, 0.97  # of configs/{moco,byol}_photos.py


def compare(args):
    record = json.loads(args.record.read_text()) if args.record.exists() else {"runs": []}
    args.runs.mkdir(parents=True, exist_ok=True)
    tiles = args.runs / "tiles.npz"
    if not tiles.exists():
        export(tiles)
    for seed in (int(seed) for seed in args.seeds.split(",")):
        for method in args.methods.split(","):
            for library in ("jssl", "lightly"):
                name = {"library": library, "method": method, "seed": seed, "epochs": args.epochs}
                if any(name.items() <= run.items() for run in record["runs"]):
                    continue
                print(name, flush=True)
                curve = jssl_curve if library == "jssl" else lightly_curve
                record["runs"].append({**name, **curve(args, tiles, method, seed)})
                write(args.record, record)
    for run in record["runs"]:
        print(run["library"], run["method"], run["seed"], run["knn_top1"])


def jssl_curve(args, tiles, method, seed):
    """The kNN accuracies of `jssl train`."""
    import jax

    workdir = args.runs / f"jssl_{method}_{seed}_{args.epochs}"
    started = time.time()
    subprocess.run(
        [sys.executable, "-m", "jssl", "train", f"--workdir={workdir}",
         f"--config={CONFIGS / f'{method}_photos.py'}:seed={seed},epochs={args.epochs}"
         f"{',jitter=paper' if method == 'simclr' else ''}",
         *SAME, *OWN.get(method, ())],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.time() - started
    result = json.loads((workdir / "result.json").read_text())
    (knn,) = (row["top1"] for row in result["rows"] if row["probe"] == "kNN")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    curve = [knn["untrained"], *(x["knn_top1"] for x in lines if x["step"] and "knn_top1" in x)]
    return {"knn_top1": curve, "seconds": round(seconds), "versions": {"jax": jax.__version__}}


def lightly_curve(args, tiles, method, seed):
    """The same of this file, run by the Python that has lightly."""
    command = [args.lightly_python, __file__, "--train", str(tiles), "--methods", method]
    command += ["--seeds", str(seed), "--epochs", str(args.epochs)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # waiting threads would slow a busy machine
    run = subprocess.run(command, capture_output=True, text=True, env=alone)
    if run.returncode:
        sys.exit(f"{args.lightly_python} could not train with lightly:\n{run.stderr[-800:]}")
    return json.loads(run.stdout.splitlines()[-1])


def write(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)


def export(path):
    from jssl.data.photos import load

    train, train_labels = load("train", 32)
    test, test_labels = load("test", 32)
    np.savez(path, train=train, train_labels=train_labels, test=test, test_labels=test_labels)


# In the other environment -------------------------------------------------------------------------


def train(path, method, seed, epochs, batch_size=32):
    import lightly
    import torch
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    torch.manual_seed(seed)
    data, started = np.load(path), time.time()
    net = resnet8(torch)
    steps = epochs * (len(data["train"]) // batch_size)
    loss_of, trained = METHODS[method](torch, net, steps)
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    params = [p for module in trained for p in module.parameters()]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 1e-4},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    eps = 1e-6 if method == "byol" else 1e-8
    optimizer = torch.optim.AdamW(groups, lr=1e-3, eps=eps)
    warmup = len(data["train"]) // batch_size // 2

    def rate(step):
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    pictures = [Image.fromarray(x) for x in data["train"]]
    curve, rng = [knn_top1(torch, net, data)], np.random.default_rng(seed)
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(pictures))
        for first in range(0, len(pictures) - batch_size + 1, batch_size):
            views = [transform(pictures[i]) for i in order[first : first + batch_size]]
            loss = loss_of(*(torch.stack([v[j] for v in views]) for j in range(2)), step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
        curve.append(knn_top1(torch, net, data))
    versions = {"lightly": lightly.__version__, "torch": torch.__version__}
    print(json.dumps({
        "knn_top1": curve, "seconds": round(time.time() - started), "versions": versions,
    }))  # fmt: skip


def resnet8(torch):
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.inplanes = 32
    net.conv1 = torch.nn.Conv2d(3, 32, 3, 1, 1, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(32)
    net.maxpool = torch.nn.Identity()
    net.layer1 = net._make_layer(BasicBlock, 32, 1)
    net.layer2 = net._make_layer(BasicBlock, 64, 1, stride=2)
    net.layer3 = net._make_layer(BasicBlock, 128, 1, stride=2)
    net.layer4 = torch.nn.Identity()
    net.fc = torch.nn.Identity()
    for m in net.modules():
        if isinstance(m, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net


def simclr(torch, net, steps):
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    head, loss = SimCLRProjectionHead(128, 128, 128), NTXentLoss(temperature=0.2)
    return lambda a, b, step: loss(head(net(a)), head(net(b))), (net, head)


def moco(torch, net, steps):
    import copy

    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import update_momentum

    head = MoCoProjectionHead(128, 128, 128)
    key_net, key_head = copy.deepcopy(net), copy.deepcopy(head)
    loss = NTXentLoss(temperature=0.2, memory_bank_size=(QUEUE, 128))

    def loss_of(a, b, step):
        update_momentum(net, key_net, m=MOCO_MOMENTUM)
        update_momentum(head, key_head, m=MOCO_MOMENTUM)
        with torch.no_grad():
            keys = key_head(key_net(b))
        return loss(head(net(a)), keys)

    return loss_of, (net, head)


def byol(torch, net, steps):
    import copy

    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    projector = BYOLProjectionHead(128, 512, 128)
    predictor = BYOLPredictionHead(128, 512, 128)
    target_net, target_projector = copy.deepcopy(net), copy.deepcopy(projector)
    similarity = NegativeCosineSimilarity()

    def loss_of(a, b, step):
        momentum = cosine_schedule(step, steps, BYOL_MOMENTUM, 1.0)
        update_momentum(net, target_net, m=momentum)
        update_momentum(projector, target_projector, m=momentum)
        with torch.no_grad():
            targets = [target_projector(target_net(x)) for x in (a, b)]
        p, q = (predictor(projector(net(x))) for x in (a, b))
        return similarity(p, targets[1]) + similarity(q, targets[0])

    return loss_of, (net, projector, predictor)


METHODS = {"simclr": simclr, "moco": moco, "byol": byol}


def knn_top1(torch, net, data, k=20, temperature=0.1):
    def embed(images):
        net.eval()
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            rows = torch.cat([net(part) for part in x.split(256)]).numpy()
        net.train()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = embed(data["test"]) @ embed(data["train"]).T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / temperature)
    votes = np.zeros((len(similarity), data["train_labels"].max() + 1))
    for row in range(len(similarity)):
        np.add.at(votes[row], data["train_labels"][nearest[row]], weights[row])
    return float((votes.argmax(1) == data["test_labels"]).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lightly-python", help="a Python with lightly, torch and torchvision")
    parser.add_argument("--runs", type=Path, default=Path("runs/lightly"))
    parser.add_argument("--record", type=Path, default=Path("docs/benchmarks/lightly.json"))
    parser.add_argument("--methods", default="simclr,moco,byol")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # the tiles, for lightly
    args = parser.parse_args()
    if args.train:
        train(args.train, args.methods, int(args.seeds), args.epochs)
    elif args.lightly_python:
        compare(args)
    else:
        parser.error("give --lightly-python, a Python that has lightly, torch and torchvision")
