"""Segmentation of PASCAL VOC by a dilated ResNet-50, as in MoCo and BYOL.

Paper:     He et al., CVPR 2020 (MoCo), https://arxiv.org/abs/1911.05722, appendix A.5; Grill et
           al., NeurIPS 2020 (BYOL), https://arxiv.org/abs/2006.07733, appendix D.4
Data:      train_aug (SBD and VOC 2012) and val of VOC 2012: the official archives in data_dir, see
           docs/dense_data.md
Target:    mIoU 72.5 (MoCo, ImageNet), 74.4 (supervised), 76.3 (BYOL, which sweeps the rate from
           1e-3 to 1e-1 on held-out examples). Not run here.
Hardware:  8 GPUs or v5e:8
Command:   jssl train --config=configs/fcn_voc.py:init=runs/moco --workdir=runs/moco_seg
Switches:  smoke, seed=N, epochs=N, lr=RATE, init=WORKDIR[:step], whose model section it takes ('':
           random init)
"""

from bases.fcn import EPOCHS

from jssl import config
from jssl.run import pretrained


def get_config(arg=""):
    s = config.switches(arg, smoke=False, seed=0, epochs=EPOCHS, lr=0.003, init="")
    c = config.base("fcn", preset="voc")
    c.seed = s.seed
    c.optim.lr = s.lr
    c.optim.boundaries = tuple(b * s.epochs / c.epochs for b in c.optim.boundaries)
    c.epochs = s.epochs
    c.data.name = "voc"
    c.data.workers = 8
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    if s.smoke:
        config.smoke(c)
        c.data.name = "cutouts"
        updates = {"augment": {"size": 128}, "batch_size": 4, "fcn": {"features": 8}}
        config.apply(c, {**updates, "monitor": {"every_epochs": 0.0}})
    return c
