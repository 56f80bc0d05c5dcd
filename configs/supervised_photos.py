"""Supervised ResNet on the embedded photographs: the upper reference of the main job's table.

Paper:     He et al., CVPR 2016, https://arxiv.org/abs/1512.03385
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/supervised_photos.py --workdir=runs/supervised_photos
Switches:  smoke, epochs=N, seed=N, labels=SHARE of every class, init=WORKDIR[:step] of any
           other run with an encoder, to fine-tune (config.init_from, and the model section of that
           run): configs/supervised_photos.py:labels=0.1,init=runs/simclr_photos
"""

from bases.photos import on_photos

from jssl import config
from jssl.run import pretrained


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=4.0, seed=0, labels=1.0, init="")
    c = config.base("supervised", preset="cifar")
    on_photos(c, s, batch_size=64)
    c.model.name = "resnet8"
    c.model.width = 0.5
    c.augment.normalize = "none"
    c.optim.warmup_epochs = 0.5
    c.checkpoint.every_steps = 50
    c.log.every_steps = 10
    c.supervised.label_fraction = s.labels
    if s.smoke:
        config.smoke(c)
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    return c
