"""MoCo v2 on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Chen et al., 2020, https://arxiv.org/abs/2003.04297, after He et al., CVPR 2020,
           https://arxiv.org/abs/1911.05722
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/moco_photos.py --workdir=runs/moco_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0)
    c = config.base("moco", preset="v2")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.model.bn_groups = 4
    c.augment.name = "simclr_cifar"
    c.augment.normalize = "none"
    c.moco.queue_size = 1024
    c.moco.ema_momentum = 0.99
    if s.smoke:
        config.smoke(c)
        c.moco.queue_size = 64
        c.moco.ema_momentum = 0.9
    return c
