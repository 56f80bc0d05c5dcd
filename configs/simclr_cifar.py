"""SimCLR on CIFAR-10 or CIFAR-100, the official README's recipe.

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, appendix B.9
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    CIFAR-10, ResNet-18, 1000 epochs: "around 91 %" linear top-1 on frozen features,
           last epoch, test split (https://github.com/google-research/simclr README).
           Not run here.
Hardware:  one GPU with 16 GB, or a TPU v2-8
Command:   jssl train --config=configs/simclr_cifar.py --workdir=runs/simclr_cifar10
Switches:  smoke, data=cifar10|cifar100, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar10", epochs=1000.0, batch=512)
    c = config.base("simclr", preset="cifar")
    c.data.name = s.data
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.smoke:
        config.smoke(c)
    return c
