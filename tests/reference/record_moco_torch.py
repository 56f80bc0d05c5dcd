"""Records tests/golden/moco_torch.npz from PyTorch and lightly. Run by hand:

    python tests/reference/record_moco_torch.py      (torch 2.14.1, lightly 1.6.0)

InfoNCE with a queue is lightly's NTXentLoss with a memory bank: five batches, so that values,
gradients in the queries and the queue after each are those of a real course through a queue of
three batches. MoCo v3's loss is the formula of `ctr_loss` and `forward` in moco-v3/moco/builder.py
in our words, as a process of rank 1 of 2 computes it: its queries against the keys of both.
Float64 throughout.
"""

import pathlib

import numpy as np
import torch
from lightly.loss import NTXentLoss

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "moco_torch.npz"
B, D, K = 4, 6, 12
rng = np.random.default_rng(11)
record = {"temperature": np.array([0.07, 0.2])}

for t, temperature in enumerate(record["temperature"]):
    loss_fn = NTXentLoss(temperature=float(temperature), memory_bank_size=(K, D)).double()
    start = rng.normal(size=(K, D))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    loss_fn.memory_bank.bank = torch.tensor(start)
    record[f"queue_{t}"] = start
    queries = rng.normal(size=(5, B, D))
    keys = queries + 0.7 * rng.normal(size=(5, B, D))
    record[f"queries_{t}"], record[f"keys_{t}"] = queries, keys
    values, grads, queues = [], [], []
    for q, k in zip(queries, keys, strict=True):
        q = torch.tensor(q, requires_grad=True)
        loss = loss_fn(q, torch.tensor(k))
        loss.backward()
        values.append(loss.item())
        grads.append(q.grad.numpy())
        queues.append(loss_fn.memory_bank.bank.numpy().copy())
    record[f"losses_{t}"], record[f"grads_{t}"] = np.array(values), np.stack(grads)
    record[f"queues_{t}"] = np.stack(queues)


def direction(q, all_keys, rank, temperature):
    """Cross entropy against the own key among all, times 2 T."""
    q = torch.nn.functional.normalize(q, dim=1)
    logits = q @ torch.nn.functional.normalize(all_keys, dim=1).T / temperature
    labels = torch.arange(len(q)) + len(q) * rank
    return torch.nn.functional.cross_entropy(logits, labels) * (2 * temperature)


record["v3_temperature"] = np.array([0.2, 1.0])
for t, temperature in enumerate(record["v3_temperature"]):
    k = rng.normal(size=(2, 2 * B, D))  # view, example of both processes
    q = k[::-1] + 0.7 * rng.normal(size=(2, 2 * B, D))
    record[f"v3_q_{t}"], record[f"v3_k_{t}"] = q, k
    for rank in (0, 1):
        mine = slice(rank * B, (rank + 1) * B)
        q_a, q_b = (torch.tensor(x[mine].copy(), requires_grad=True) for x in q)
        k_a, k_b = torch.tensor(k)
        loss = direction(q_a, k_b, rank, float(temperature))
        loss = loss + direction(q_b, k_a, rank, float(temperature))
        loss.backward()
        record[f"v3_loss_{t}_{rank}"] = loss.item()
        record[f"v3_grads_{t}_{rank}"] = np.stack([q_a.grad.numpy(), q_b.grad.numpy()])

np.savez_compressed(GOLDEN, **record)
