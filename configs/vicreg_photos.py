"""VICReg on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/vicreg_photos.py --workdir=runs/vicreg_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=5.0, size=32, seed=0)
    c = config.base("vicreg", preset="imagenet")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.augment.name = "simclr_cifar"
    c.augment.normalize = "none"
    c.augment.options.resize = None  # the recipe's own
    c.augment.options.clip_crop = None
    c.vicreg.proj_hidden = 512
    c.vicreg.proj_dim = 256
    c.optim.end_lr = 1e-6
    if s.smoke:
        config.smoke(c)
        c.vicreg.proj_hidden = 64
        c.vicreg.proj_dim = 32
    return c
