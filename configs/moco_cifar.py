"""MoCo on CIFAR-10 or CIFAR-100, the official notebook's recipe.

Paper:     He et al., CVPR 2020, https://arxiv.org/abs/1911.05722; the recipe is
           colab/moco_cifar10_demo.ipynb of https://github.com/facebookresearch/moco
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    CIFAR-10, ResNet-18, asymmetric loss, 200/400/800 epochs: kNN top-1 82.6/86.3/88.7 on the
           test split, last epoch, k=200, T=0.1, of the normalised 128-d output
           (--feature=projection). Not run here.
Hardware:  one GPU with 16 GB, or a TPU v2-8
Command:   jssl train --config=configs/moco_cifar.py --workdir=runs/moco_cifar10
Switches:  smoke, data=cifar10|cifar100, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar10", epochs=200.0, batch=512)
    c = config.base("moco", preset="cifar")
    c.data.name = s.data
    c.augment.normalize = s.data
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.monitor.knn_k = 200
    c.monitor.knn_feature = "projection"
    if s.smoke:
        config.smoke(c)
    return c
