"""CPC v2 on CIFAR-10: the grid and schedule of lightning-bolts' published run.

Paper:     Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272, has no CIFAR run
Data:      CIFAR-10 through TFDS: python -m jssl.data.prepare cifar10
Target:    84.52 % test top-1, ResNet-101, 1000 epochs, batch 64, learning rate 4e-5, then a
           finetuned classifier (https://lightning-bolts.readthedocs.io, models, self-supervised).
           That run's loss counts offset k k-1 times, pads with ones and predicts downwards alone;
           here is the paper's loss, so the number is a neighbour, not a target to the digit.
           Not run here.
Hardware:  one GPU with 32 GB, about a day
Command:   jssl train --config=configs/cpc_cifar.py --workdir=runs/cpc_cifar10
Switches:  smoke, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=1000.0, batch=64)
    c = config.base("cpc", preset="cifar")
    c.data.name = "cifar10"
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.smoke:
        config.smoke(c)
        c.model.stage_sizes = (1, 1)
    return c
