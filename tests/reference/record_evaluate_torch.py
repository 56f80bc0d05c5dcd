"""Records tests/golden/evaluate_torch.npz from PyTorch and lightly. Run by hand:

    python tests/reference/record_evaluate_torch.py      (torch 2.14.1, lightly 1.6.0)

kNN votes and collapse measures in float64; SGD of linear classifiers in float64 too.
"""

import pathlib

import numpy as np
import torch
from lightly.utils.benchmarking import knn_predict
from lightly.utils.debug import std_of_l2_normalized

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "evaluate_torch.npz"
rng = np.random.default_rng(11)
record = {}

# kNN: lightly's classes in order of their votes, for clusters that overlap.
centres = rng.normal(size=(6, 24))
labels = rng.integers(0, 6, size=300)
bank = centres[labels] + 1.5 * rng.normal(size=(300, 24))
queries = centres[rng.integers(0, 6, size=70)] + 1.5 * rng.normal(size=(70, 24))
record["knn_bank"], record["knn_labels"], record["knn_queries"] = bank, labels, queries
for k, temperature in ((1, 0.1), (20, 0.1), (200, 0.07), (300, 1.0)):
    order = knn_predict(
        torch.nn.functional.normalize(torch.tensor(queries), dim=1),
        torch.nn.functional.normalize(torch.tensor(bank), dim=1).T.contiguous(),
        torch.tensor(labels),
        num_classes=6,
        knn_k=k,
        knn_t=temperature,
    )
    record[f"knn_order_{k}"] = order.numpy().astype(np.int8)
    record[f"knn_temperature_{k}"] = temperature

# Collapse: lightly's std (of a sample: n - 1), and Wang and Isola's formulas in torch's words.
first = rng.normal(size=(50, 12)) + 0.7
second = first + 0.4 * rng.normal(size=(50, 12))
a, b = (torch.nn.functional.normalize(torch.tensor(z), dim=1) for z in (first, second))
record["collapse_a"], record["collapse_b"] = first, second
record["collapse_std_a"] = std_of_l2_normalized(torch.tensor(first)).item()
record["collapse_uniformity_a"] = torch.pdist(a, p=2).pow(2).mul(-2).exp().mean().log().item()
record["collapse_alignment"] = (a - b).norm(p=2, dim=1).pow(2).mean().item()

# Linear presets: a head under torch.optim.SGD and torch's schedulers, one batch a step.
steps_per_epoch, batch, dim, classes = 3, 8, 5, 4
x = rng.normal(size=(30 * steps_per_epoch, batch, dim))
y = rng.integers(0, classes, size=x.shape[:2])
weight = 0.01 * rng.normal(size=(classes, dim))
record["sgd_x"], record["sgd_y"], record["sgd_weight"] = x.astype(np.float32), y, weight
runs = {
    "moco": (dict(lr=30.0, momentum=0.9), "steps", (6, 8), 0.1, 10),
    "cmc": (dict(lr=30.0, momentum=0.9), "steps", (6, 8, 10), 0.2, 12),
    "swav": (dict(lr=0.3, momentum=0.9, weight_decay=1e-6), "cosine", (), 0.0, 10),
    "nesterov": (dict(lr=0.4, momentum=0.9, nesterov=True), "cosine", (), 0.0, 10),
}
for name, (options, kind, edges, gamma, epochs) in runs.items():
    head = torch.nn.Linear(dim, classes).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
        head.bias.zero_()
    tx = torch.optim.SGD(head.parameters(), **options)
    if kind == "steps":
        schedule = torch.optim.lr_scheduler.MultiStepLR(tx, edges, gamma)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tx, epochs)
    rates, step = [], 0
    for _ in range(epochs):
        for _ in range(steps_per_epoch):
            rates.append(tx.param_groups[0]["lr"])
            inputs = torch.tensor(x[step].astype(np.float32)).double()
            loss = torch.nn.functional.cross_entropy(head(inputs), torch.tensor(y[step]))
            tx.zero_grad()
            loss.backward()
            tx.step()
            step += 1
        schedule.step()
    record[f"sgd_{name}_rates"] = np.array(rates)
    record[f"sgd_{name}_kernel"] = head.weight.detach().numpy().T
    record[f"sgd_{name}_bias"] = head.bias.detach().numpy()

np.savez_compressed(GOLDEN, **record)
