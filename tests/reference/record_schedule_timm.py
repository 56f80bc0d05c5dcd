"""Records tests/golden/schedule_timm.npz: DeiT's learning rate in every epoch, out of timm.

By hand, once, with timm 1.0.31 and PyTorch:

    python tests/reference/record_schedule_timm.py

timm's own CosineLRScheduler with the defaults of DeiT's main.py (warm-up of 5 epochs from 1e-6, end
1e-5), asked for the next rate after each epoch, as its loop does.
"""

import pathlib

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "schedule_timm.npz"


def rates(epochs, peak):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    found = []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])  # of the steps of this epoch
        scheduler.step(epoch)
    return np.array(found)


def main():
    out = {"e300": rates(300, 1e-3), "e30": rates(30, 2.5e-4)}
    np.savez_compressed(GOLDEN, **out)
    print(GOLDEN, GOLDEN.stat().st_size, "bytes;", out["e300"][:7])


if __name__ == "__main__":
    main()
