"""Records tests/golden/cmc_official.npz by RUNNING the authors' code. Run by hand:

    git clone https://github.com/HobbitLong/CMC CHECKOUT
    python tests/reference/record_cmc_official.py CHECKOUT      (torch 2.14.1, on the CPU)

Two steps of NCEAverage with one memory and two batches, so that Z, set by the first, is seen to
stay; then its outputs go through NCECriterion, or NCESoftmaxLoss for the softmax form. Recorded
are scores, losses, Z, gradients of the features and the memories after each step. The code asks
for a GPU with .cuda(), which is made to do nothing; everything is float64.
"""

import pathlib
import sys

import numpy as np
import torch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "cmc_official.npz"
DATA, DIM, BATCH, K, T = 50, 16, 6, 9, 0.07

sys.path.insert(0, sys.argv[1])
torch.Tensor.cuda = lambda self, *_, **__: self
torch.set_default_dtype(torch.float64)
from NCE.alias_multinomial import AliasMethod  # noqa: E402

AliasMethod.cuda = lambda self: None
from NCE.NCEAverage import NCEAverage  # noqa: E402
from NCE.NCECriterion import NCECriterion, NCESoftmaxLoss  # noqa: E402

rng = np.random.default_rng(0)
memory = rng.uniform(-1, 1, (2, DATA, DIM)) / np.sqrt(DIM / 3)
features = rng.normal(size=(2, 2, BATCH, DIM))  # step, view
features /= np.linalg.norm(features, axis=-1, keepdims=True)
index = rng.integers(0, DATA, (2, BATCH, K + 1))
index[:, :, 0] = [rng.permutation(DATA)[:BATCH] for _ in range(2)]
index[0, 0, 3] = index[0, 0, 0]  # a negative that is the example itself
record = {"memory": memory, "features": features, "index": index, "temperature": np.float64(T)}

for form in ("nce", "softmax"):
    contrast = NCEAverage(DIM, DATA, K, T, 0.5, form == "softmax")
    contrast.memory_l.copy_(torch.tensor(memory[0]))
    contrast.memory_ab.copy_(torch.tensor(memory[1]))
    criterion = NCESoftmaxLoss() if form == "softmax" else NCECriterion(DATA)
    for step in range(2):
        f = [torch.tensor(x, requires_grad=True) for x in features[step]]
        idx = torch.tensor(index[step])
        out_l, out_ab = contrast(*f, idx[:, 0].clone(), idx)
        loss_l, loss_ab = criterion(out_l), criterion(out_ab)
        (loss_l + loss_ab).sum().backward()
        name = f"{form}_{step}"
        record[f"{name}_loss"] = np.array([loss_l.item(), loss_ab.item()])
        record[f"{name}_grad"] = np.stack([x.grad.numpy() for x in f])
        record[f"{name}_z"] = contrast.params[2:4].detach().numpy().copy()
        record[f"{name}_memory"] = np.stack(
            [contrast.memory_l.numpy(), contrast.memory_ab.numpy()]
        ).copy()

np.savez_compressed(GOLDEN, **record)
