"""Records tests/golden/losses_torch.npz from PyTorch and lightly. Run by hand:

    python tests/reference/record_losses_torch.py      (torch 2.14.1, lightly 1.6.0)

Float64 throughout, so that the recorded numbers are exact to what the tests compare.
"""

import pathlib

import numpy as np
import torch
from lightly.loss import NTXentLoss

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "losses_torch.npz"
rng = np.random.default_rng(7)
record = {}

# NT-Xent: value and gradients of lightly's mean over 2N, both views of correlated embeddings.
first = rng.normal(size=(12, 16))
second = first + 0.7 * rng.normal(size=(12, 16))
record["nt_xent_z_a"], record["nt_xent_z_b"] = first, second
record["nt_xent_temperature"] = np.array([0.05, 0.1, 0.5, 1.0])
for i, temperature in enumerate(record["nt_xent_temperature"]):
    z_a = torch.tensor(first, requires_grad=True)
    z_b = torch.tensor(second, requires_grad=True)
    loss = NTXentLoss(temperature=float(temperature))(z_a, z_b)
    loss.backward()
    record[f"nt_xent_loss_{i}"] = loss.item()
    record[f"nt_xent_grad_a_{i}"] = z_a.grad.numpy()
    record[f"nt_xent_grad_b_{i}"] = z_b.grad.numpy()

# Cross entropy: per example, integer and soft labels, with and without smoothing.
logits = 3 * rng.normal(size=(9, 5))
labels = rng.integers(0, 5, size=9)
soft = rng.dirichlet(np.ones(5), size=9)
record["ce_logits"], record["ce_labels"], record["ce_soft"] = logits, labels, soft
record["ce_smoothing"] = np.array([0.0, 0.1, 0.4])
for i, smoothing in enumerate(record["ce_smoothing"]):
    for name, target in (("int", torch.tensor(labels)), ("soft", torch.tensor(soft))):
        x = torch.tensor(logits, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            x, target, reduction="none", label_smoothing=float(smoothing)
        )
        loss.sum().backward()
        record[f"ce_{name}_loss_{i}"] = loss.detach().numpy()
        record[f"ce_{name}_grad_{i}"] = x.grad.numpy()

# Top-k: torch.topk's choice among other logits, which lean to the label; there are no ties.
logits = rng.normal(size=(40, 5)) + np.eye(5)[rng.integers(0, 5, size=40)]
labels = logits.argmax(axis=1)
logits = logits + rng.normal(size=(40, 5))
record["top_logits"], record["top_labels"] = logits, labels
for k in (1, 2, 3):
    chosen = torch.topk(torch.tensor(logits), k).indices
    record[f"top_{k}"] = (chosen == torch.tensor(labels)[:, None]).any(dim=1).numpy()

np.savez_compressed(GOLDEN, **record)
