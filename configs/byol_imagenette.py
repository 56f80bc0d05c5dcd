"""BYOL on Imagenette with a ResNet-18 at 128 px: the official README's setup for fast iteration.

Paper:     Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733
Data:      TFDS imagenette/160px-v2, 9,469 training images: python -m jssl.data.prepare imagenette
Target:    about 92.3 top-1 of the ONLINE classifier on the validation images after 1000 epochs,
           centre crops (README of the official code, which says that its numbers were not tuned).
           Not run here.
Hardware:  one V100, about 4 hours (the same README)
Command:   jssl train --config=configs/byol_imagenette.py --workdir=runs/byol_imagenette
Switches:  smoke, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=1000.0, batch=256)
    c = config.base("byol", preset="imagenette")
    c.data.name = "imagenette"
    c.data.host_crop = "tf"  # its pictures differ in size
    c.data.workers = 4
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.smoke:
        config.smoke(c)
        c.byol.proj_hidden = 64
    return c
