"""BYOL on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/byol_photos.py --workdir=runs/byol_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0)
    c = config.base("byol", preset="cifar")
    small_resnet(c, s)
    c.updates = "whole_epochs"  # 3,200 tiles are whole batches
    c.augment.normalize = "imagenet"
    c.byol.ema_momentum = 0.97  # few steps
    c.byol.proj_hidden = 512
    c.byol.proj_dim = 128
    # The gradient of a bias before a BN is rounding alone; Adam's 1e-8 would make steps of it.
    c.optim.eps = 1e-6
    if s.smoke:
        config.smoke(c)
        c.byol.proj_hidden = 64
    return c
