"""BYOL on CIFAR-10 or CIFAR-100 with a ResNet-18; the authors have no such run, solo-learn has.

Paper:     Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    solo-learn's README: CIFAR-10 92.58, CIFAR-100 70.46 top-1 of the online linear
           classifier, last of 1000 epochs, test split; its scripts/pretrain/cifar/byol.yaml has
           these numbers but for the optimiser's: its LARS caps the layer-wise rate at lr, with a
           trust coefficient of 0.02; here it is BYOL's own, without a cap. Not run here.
Hardware:  one GPU with 16 GB
Command:   jssl train --config=configs/byol_cifar.py --workdir=runs/byol_cifar10
Switches:  smoke, data=cifar10|cifar100, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar10", epochs=1000.0, batch=256)
    c = config.base("byol", preset="cifar")
    c.data.name = s.data
    c.augment.normalize = s.data
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.smoke:
        config.smoke(c)
        c.byol.proj_hidden = 64
    return c
