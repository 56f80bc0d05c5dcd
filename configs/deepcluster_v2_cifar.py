"""DeepCluster v2 on CIFAR-10 or CIFAR-100 with a ResNet-18, by solo-learn's settings.

Paper:     Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882; settings of
           https://github.com/vturrisi/solo-learn, scripts/pretrain/cifar
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    linear top-1 of solo-learn's README, 1000 epochs: CIFAR-10 88.85, CIFAR-100 63.61. Its
           LARS clips the trust ratio at 1 over the learning rate, which this one does not.
           Not run here.
Hardware:  one GPU with 16 GB, or a TPU v2-8
Command:   jssl train --config=configs/deepcluster_v2_cifar.py --workdir=runs/deepcluster_v2_cifar10
Switches:  smoke, data=cifar10|cifar100, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar10", epochs=1000.0, batch=256)
    c = config.base("deepcluster_v2", preset="cifar")
    c.data.name = s.data
    c.augment.normalize = s.data
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.smoke:
        config.smoke(c)
        c.deepcluster_v2.num_clusters = (8, 8, 8)
    return c
