"""BYOL on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   the results table of README.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/byol_photos.py --workdir=runs/byol_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0)
    c = config.base("byol", preset="cifar")
    c.seed = s.seed
    c.epochs = s.epochs
    c.batch_size = 32
    c.updates = "whole_epochs"  # 3,200 tiles are whole batches
    c.data.name = "photos"
    c.data.tile = s.size
    c.model.name = "resnet8"  # as configs/simclr_photos.py
    c.model.width = 0.5
    c.augment.size = s.size
    c.augment.normalize = "imagenet"
    c.byol.ema_momentum = 0.97  # few steps
    c.byol.proj_hidden = 512
    c.byol.proj_dim = 128
    # Some hundred small batches: Adam gets further in them than LARS, which is for thousands.
    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.lr_scaling = "none"
    c.optim.weight_decay = 1e-4
    c.optim.warmup_epochs = 0.5
    # The gradient of a bias before a BN is rounding alone; Adam's 1e-8 would make steps of it.
    c.optim.eps = 1e-6
    c.log.every_steps = 20
    c.checkpoint.every_steps = 100
    if s.smoke:
        config.smoke(c)
        c.byol.proj_hidden = 64
    return c
