"""Predictive learning on the embedded photographs, to compare with CMC: minutes on two CPU cores.

Paper:     Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, section 3.1 (no published
           settings: net, length and augmentation are those of cmc_photos)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/cmc_views.md
Hardware:  2 CPU cores
Command:   jssl train --config=configs/predictive_photos.py --workdir=runs/predictive_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N, norm=l2|l1
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0, norm="l2")
    c = config.base("predictive", preset="v1")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.model.stem_width_fixed = False
    c.model.bn_groups = 1
    c.predictive.norm = s.norm
    c.optim.schedule = "cosine"
    c.optim.boundaries = ()
    if s.smoke:
        config.smoke(c)
    return c
