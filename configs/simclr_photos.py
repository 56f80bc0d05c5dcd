"""SimCLR on the embedded photographs: the main job, minutes on two CPU cores, no download.

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709 (CIFAR recipe, small net)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/simclr_photos.py --workdir=runs/simclr_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=5.0, size=32, seed=0)
    c = config.base("simclr", preset="cifar")
    small_resnet(c, s)
    c.updates = "whole_epochs"  # 3,200 tiles are whole batches
    c.simclr.temperature = 0.2
    if s.smoke:
        config.smoke(c)
    return c
