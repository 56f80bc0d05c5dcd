"""Trains lightly's SimCLR on the same tiles, net and epochs as configs/simclr_photos.py.

Run by hand, in an environment of its own (lightly, torch and torchvision are no dependencies):

    python tests/benchmarks/compare_lightly.py --export tiles.npz      # with jssl installed
    python tests/benchmarks/compare_lightly.py --train tiles.npz --epochs 4 --seed 0

The net is the config's: three groups of one basic block (ResNet-8), 32, 64 and 128 channels, CIFAR
stem, 2-layer head. The recipe is that of lightly's CIFAR-10 benchmark: SGD 0.06 B/128,
momentum 0.9, weight decay 5e-4, cosine, T 0.5, no blur, colour jitter 0.5. Prints the kNN error
(k=20, cosine, weights exp(s/0.1)) of the backbone features before and after, and the seconds.
"""

import argparse
import time

import numpy as np


def export(path):
    from jssl.data.photos import load

    train, train_labels = load("train", 32)
    test, test_labels = load("test", 32)
    np.savez(path, train=train, train_labels=train_labels, test=test, test_labels=test_labels)


def knn_error(bank, bank_labels, queries, labels, k=20, temperature=0.1):
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity = queries @ bank.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / temperature)
    votes = np.zeros((len(queries), bank_labels.max() + 1))
    for row in range(len(queries)):
        np.add.at(votes[row], bank_labels[nearest[row]], weights[row])
    return float((votes.argmax(1) != labels).mean())


def train(path, epochs, seed, batch_size, lr, blocks):
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(seed)
    data = np.load(path)

    def net_of_width(width):
        net = ResNet(BasicBlock, [2, 2, 2, 2])
        net.inplanes = width
        net.conv1 = torch.nn.Conv2d(3, width, 3, 1, 1, bias=False)
        net.bn1 = torch.nn.BatchNorm2d(width)
        net.maxpool = torch.nn.Identity()
        net.layer1 = net._make_layer(BasicBlock, width, blocks)
        net.layer2 = net._make_layer(BasicBlock, 2 * width, blocks, stride=2)
        net.layer3 = net._make_layer(BasicBlock, 4 * width, blocks, stride=2)
        net.layer4 = torch.nn.Identity()
        net.fc = torch.nn.Identity()
        for m in net.modules():
            if isinstance(m, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        return net

    net = net_of_width(32)
    head = SimCLRProjectionHead(128, 128, 128)
    loss_fn = NTXentLoss(temperature=0.5)
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def embed(images):
        net.eval()
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.no_grad():
            return torch.cat([net(part) for part in x.split(256)]).numpy()

    def error():
        return knn_error(
            embed(data["train"]), data["train_labels"], embed(data["test"]), data["test_labels"]
        )

    before, start = error(), time.time()
    params = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(params, lr=lr * batch_size / 128, momentum=0.9, weight_decay=5e-4)
    steps = len(data["train"]) // batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(x) for x in data["train"]]
    for epoch in range(epochs):
        net.train()
        order = rng.permutation(len(pictures))
        total = 0.0
        for step in range(steps):
            rows = order[step * batch_size : (step + 1) * batch_size]
            views = [transform(pictures[i]) for i in rows]
            a, b = (torch.stack([v[j] for v in views]) for j in range(2))
            loss = loss_fn(head(net(a)), head(net(b)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1}: loss {total / steps:.4f}, kNN error {error():.4f}, "
            f"{time.time() - start:.0f} s",
            flush=True,
        )
    print(
        f"seed {seed}: kNN error untrained {before:.4f}, trained {error():.4f}, "
        f"{time.time() - start:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export")
    parser.add_argument("--train")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.06)
    parser.add_argument("--blocks", type=int, default=1)
    args = parser.parse_args()
    if args.export:
        export(args.export)
    if args.train:
        train(args.train, args.epochs, args.seed, args.batch_size, args.lr, args.blocks)
