"""Records tests/golden/optim_torch.npz from torch.optim. Run by hand:

    python tests/reference/record_optim_torch.py      (torch 2.14.1)

A kernel that decays and a bias that does not, fixed gradients, 5 steps in float64; the learning
rate is divided by ten after two steps and again after four (MultiStepLR, an epoch a step).
"""

import pathlib

import numpy as np
import torch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "optim_torch.npz"
STEPS = 5
rng = np.random.default_rng(11)
kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
kernel_grads, bias_grads = rng.normal(size=(STEPS, 4, 3)), rng.normal(size=(STEPS, 3))
record = {"kernel": kernel, "bias": bias, "kernel_grads": kernel_grads, "bias_grads": bias_grads}

RUNS = {
    "sgd_plain": lambda g: torch.optim.SGD(g, lr=0.5),
    "sgd_momentum": lambda g: torch.optim.SGD(g, lr=0.5, momentum=0.9),
    "sgd_nesterov": lambda g: torch.optim.SGD(g, lr=0.5, momentum=0.9, nesterov=True),
    "adamw": lambda g: torch.optim.AdamW(g, lr=0.02, betas=(0.9, 0.95), eps=1e-8),
}
for name, make in RUNS.items():
    p = torch.nn.Parameter(torch.tensor(kernel))
    q = torch.nn.Parameter(torch.tensor(bias))
    optimiser = make([{"params": [p], "weight_decay": 0.1}, {"params": [q], "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[2, 4], gamma=0.1)
    lrs, kernels, biases = [], [], []
    for step in range(STEPS):
        lrs.append(schedule.get_last_lr()[0])
        p.grad, q.grad = torch.tensor(kernel_grads[step]), torch.tensor(bias_grads[step])
        optimiser.step()
        schedule.step()
        kernels.append(p.detach().numpy().copy())
        biases.append(q.detach().numpy().copy())
    record[f"{name}_lr"] = np.array(lrs)
    record[f"{name}_kernel"], record[f"{name}_bias"] = np.array(kernels), np.array(biases)

np.savez_compressed(GOLDEN, **record)
