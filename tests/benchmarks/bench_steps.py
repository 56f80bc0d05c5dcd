"""Times training steps of jssl and of plain PyTorch in turn, and records both.

    python tests/benchmarks/bench_steps.py --peer-python PYTHON --record docs/benchmarks/steps.json

PYTHON has torch, torchvision and lightly, which are no dependencies. Both sides train ResNet-18
(CIFAR stem; CMC two of half the width) with batches of 32 at 32 px in float32, with AdamW
(DeepCluster's top layer: SGD), and have the heads, queue, bank and numbers of clusters of
configs/METHOD_photos.py. They make the same passes: MoCo's batch normalisation is that of the
whole batch and its keys are not shuffled, BYOL has no online classifier. The peer's layout is
channels_last, its AdamW is the fused one, and its losses are lightly's where lightly has them.

The peer gets views that are ready, because workers would make them. A step of jssl makes its views
itself. The rows "crop and mirror only" leave out the colours, so that the passes can be compared.
A run takes the whole step: views, passes, loss, optimiser, averages, queue or bank.
"""

import copy
import functools
import sys
from pathlib import Path

import turns

BATCH, SIDE, EXAMPLES = 32, 32, 3200
WIDTHS = {"cmc": 0.5}  # of the network; 1.0 of the others
DIM = 128  # of all projections
HIDDEN = 512  # of BYOL's heads
QUEUE, NEGATIVES, CLUSTERS = 1024, 512, 100
MOCO_MOMENTUM, BYOL_MOMENTUM, BANK_MOMENTUM = 0.99, 0.97, 0.5
LR, WEIGHT_DECAY, TOP_LR = 1e-3, 1e-4, 0.05
WITHOUT_COLOURS = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "solarize_p": 0.0}


def step_of_jssl(method, options):
    """A compiled training step of jssl, with its augmentation."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import jax
    import numpy as np
    from helpers import get_config, tiles

    from jssl.parallel.launcher import make_launcher, placed
    from jssl.run import build

    config = get_config(f"{method}_photos", "jitter=paper" if method == "simclr" else "")
    config.batch_size, config.launch = BATCH, "jit"
    config.model.update({"name": "resnet18", "width": WIDTHS.get(method, 1.0), "bn_groups": 1})
    config.model.update({"stage_sizes": (), "shortcut": "when_needed"})
    config.augment.options.update(options)
    config.run.update({"num_examples": EXAMPLES, "steps_per_epoch": 100, "total_steps": 500})
    own = {"moco": {"shuffle": False}, "byol": {"num_classes": -1}}
    config[method].update(own.get(method, {}))
    check_sizes(config[method])
    launcher = make_launcher("jit")
    made, _ = build.make_method(config, axis_name=None)
    state = launcher.init(lambda: build.first_state(config, made, BATCH))
    if method == "deepcluster":  # what the clustering before an epoch would find
        clusters = jax.numpy.arange(EXAMPLES, dtype=np.int32) % CLUSTERS
        state = placed(launcher, state.replace(assignments=clusters))
    step, holder = launcher.compile_step(made.train_step), [state]
    batch = launcher.put_batch(tiles(BATCH))

    def run():
        holder[0], metrics = step(holder[0], batch, np.int32(holder[0].step))
        jax.block_until_ready((holder[0], metrics))

    return run


def check_sizes(settings):
    """Stops where a config no longer has the sizes that the peer has here."""
    peer = {
        "proj_dim": DIM,
        "proj_hidden": HIDDEN,
        "queue_size": QUEUE,
        "num_negatives": NEGATIVES,
        "num_clusters": CLUSTERS,
    }
    for name, size in peer.items():
        if settings.get(name, 0) not in (0, size):  # a proj_hidden of 0: as wide as the features
            sys.exit(f"The config has {name}={settings[name]}, this script {size}.")


# In the other environment -------------------------------------------------------------------------


def resnet18(channels=3, width=64):
    """A ResNet-18 with the CIFAR stem and without a classifier, from torchvision's blocks."""
    import torch
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [2, 2, 2, 2])
    net.inplanes = width
    net.conv1 = torch.nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    net.bn1, net.maxpool = torch.nn.BatchNorm2d(width), torch.nn.Identity()
    for group in range(4):
        layer = net._make_layer(BasicBlock, width * 2**group, 2, stride=2 if group else 1)
        setattr(net, f"layer{group + 1}", layer)
    net.fc = torch.nn.Identity()
    return net.to(memory_format=torch.channels_last)


def ready_views(*channels):
    """Views of a batch, one for each number of channels."""
    import torch

    return [
        torch.rand(BATCH, n, SIDE, SIDE).to(memory_format=torch.channels_last) for n in channels
    ]


def trained(modules, loss_of, after=lambda: None, more=()):
    """A training step: the loss, its gradients, AdamW of the modules, other optimisers, `after`."""
    import torch

    params = [p for module in modules for p in module.parameters()]
    adamw = torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    optimizers = [adamw, *more]

    def run():
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        after()
        loss.item()

    return run


def simclr():
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    net, head, loss = resnet18(), SimCLRProjectionHead(512, 512, DIM), NTXentLoss(0.5)
    both = torch.cat(ready_views(3, 3))

    def loss_of():
        a, b = head(net(both)).chunk(2)
        return loss(a, b)

    return trained([net, head], loss_of)


def moco():
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import update_momentum

    net = torch.nn.Sequential(resnet18(), MoCoProjectionHead(512, 512, DIM))
    key_net = copy.deepcopy(net)
    loss = NTXentLoss(temperature=0.2, memory_bank_size=(QUEUE, DIM))
    a, b = ready_views(3, 3)

    def loss_of():
        update_momentum(net, key_net, m=MOCO_MOMENTUM)
        with torch.no_grad():
            keys = key_net(b)
        return loss(net(a), keys)

    return trained([net], loss_of)


def byol():
    import torch
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum

    net = torch.nn.Sequential(resnet18(), BYOLProjectionHead(512, HIDDEN, DIM))
    predictor = BYOLPredictionHead(DIM, HIDDEN, DIM)
    target, similarity = copy.deepcopy(net), NegativeCosineSimilarity()
    a, b = ready_views(3, 3)

    def loss_of():
        with torch.no_grad():
            z_a, z_b = target(a), target(b)
        return similarity(predictor(net(a)), z_b) + similarity(predictor(net(b)), z_a)

    after = functools.partial(update_momentum, net, target, m=BYOL_MOMENTUM)
    return trained([net, predictor], loss_of, after)


def deepcluster():
    import torch

    net, top = resnet18(), torch.nn.Linear(512, CLUSTERS)
    (images,), clusters = ready_views(3), torch.arange(BATCH) % CLUSTERS
    sgd = torch.optim.SGD(top.parameters(), lr=TOP_LR, weight_decay=WEIGHT_DECAY)

    def loss_of():
        return torch.nn.functional.cross_entropy(top(net(images)), clusters)

    return trained([net], loss_of, more=[sgd])


def cmc():
    import torch
    from torch.nn.functional import cross_entropy, normalize

    width = round(64 * WIDTHS["cmc"])
    nets = [
        torch.nn.Sequential(resnet18(n, width), torch.nn.Linear(8 * width, DIM)) for n in (1, 2)
    ]
    views, rows = ready_views(1, 2), torch.arange(BATCH)
    banks = [normalize(torch.randn(EXAMPLES, DIM)) for _ in nets]
    found = []

    def loss_of():
        found[:] = [normalize(net(x)) for net, x in zip(nets, views, strict=True)]
        drawn = torch.randint(EXAMPLES, (BATCH, NEGATIVES))
        index = torch.cat([rows[:, None], drawn], dim=1)
        loss = 0.0
        for z, bank in zip(found, reversed(banks), strict=True):
            scores = torch.bmm(bank[index], z[:, :, None])[:, :, 0]
            loss = loss + cross_entropy(scores / 0.07, torch.zeros(BATCH, dtype=torch.long))
        return loss

    def after():
        for z, bank in zip(found, banks, strict=True):
            mixed = BANK_MOMENTUM * bank[rows] + (1 - BANK_MOMENTUM) * z.detach()
            bank[rows] = normalize(mixed)

    return trained(nets, loss_of, after)


PEERS = {"simclr": simclr, "moco": moco, "byol": byol, "deepcluster": deepcluster, "cmc": cmc}


def works():
    """Every row: its name to the makers of both sides."""
    made = {}
    for method, peer in PEERS.items():
        made[method] = (functools.partial(step_of_jssl, method, {}), peer)
        if method in ("simclr", "moco", "byol"):
            plain = functools.partial(step_of_jssl, method, WITHOUT_COLOURS)
            made[f"{method}, crop and mirror only"] = (plain, peer)
    return made


if __name__ == "__main__":
    turns.command(
        __doc__,
        __file__,
        works(),
        peer="PyTorch with lightly's losses",
        packages=("torch", "torchvision", "lightly"),
    )
