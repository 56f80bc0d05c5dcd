"""MoCo v3 on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/moco_v3_photos.py --workdir=runs/moco_v3_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0)
    c = config.base("moco_v3", preset="v3")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.augment.name = "simclr_cifar"
    c.augment.normalize = "none"
    c.moco_v3.temperature = 0.2  # few negatives
    c.moco_v3.ema_momentum = 0.97  # few steps
    c.moco_v3.proj_hidden = 512
    c.moco_v3.proj_dim = 128
    if s.smoke:
        config.smoke(c)
        c.moco_v3.proj_hidden = 64
    return c
