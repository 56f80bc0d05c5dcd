"""MoCo v2 on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Chen et al., 2020, https://arxiv.org/abs/2003.04297, after He et al., CVPR 2020,
           https://arxiv.org/abs/1911.05722
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   the results table of README.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/moco_photos.py --workdir=runs/moco_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0)
    c = config.base("moco", preset="v2")
    c.seed = s.seed
    c.epochs = s.epochs
    c.batch_size = 32
    c.data.name = "photos"
    c.data.tile = s.size
    c.model.name = "resnet8"  # as configs/simclr_photos.py
    c.model.width = 0.5
    c.model.stem = "cifar"
    c.model.bn_groups = 4
    c.augment.name = "simclr_cifar"
    c.augment.normalize = "none"
    c.augment.size = s.size
    c.moco.queue_size = 1024
    c.moco.ema_momentum = 0.99
    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.lr_scaling = "none"
    c.optim.warmup_epochs = 0.5
    c.log.every_steps = 20
    c.checkpoint.every_steps = 100
    if s.smoke:
        config.smoke(c)
        c.moco.queue_size = 64
        c.moco.ema_momentum = 0.9
    return c
