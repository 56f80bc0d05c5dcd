"""SimCLR on the embedded photographs: the main job, minutes on two CPU cores, no download.

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709 (CIFAR recipe, small net)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   the results table of README.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/simclr_photos.py --workdir=runs/simclr_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=5.0, size=32, seed=0)
    c = config.base("simclr", preset="cifar")
    c.seed = s.seed
    c.epochs = s.epochs
    c.batch_size = 32
    c.updates = "whole_epochs"  # 3,200 tiles are whole batches
    c.data.name = "photos"
    c.data.tile = s.size
    c.model.name = "resnet8"  # three groups: on tiles of 32 px a fourth only blurs
    c.model.width = 0.5  # 32, 64, 128 channels
    c.augment.size = s.size
    c.simclr.temperature = 0.2
    # Some hundred small batches: Adam gets further in them than LARS, which is for thousands.
    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.lr_scaling = "none"
    c.optim.weight_decay = 1e-4
    c.optim.warmup_epochs = 0.5
    c.log.every_steps = 20
    c.checkpoint.every_steps = 100
    if s.smoke:
        config.smoke(c)
    return c
