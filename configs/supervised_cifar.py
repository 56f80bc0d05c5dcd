"""Supervised ResNet-18 on CIFAR-10 or CIFAR-100.

Paper:     He et al., CVPR 2016, https://arxiv.org/abs/1512.03385
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    CIFAR-10 test top-1 95.1 is SimCLR's supervised ResNet-50 (paper, appendix B.9); for
           this ResNet-18 recipe no published number is claimed. Not run here.
Hardware:  one GPU with 8 GB
Command:   jssl train --config=configs/supervised_cifar.py --workdir=runs/supervised_cifar10
Switches:  smoke, data=cifar10|cifar100, epochs=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar10", epochs=200.0)
    c = config.base("supervised", preset="cifar")
    c.data.name = s.data
    c.augment.normalize = s.data
    c.epochs = s.epochs
    if s.smoke:
        config.smoke(c)
    return c
