"""Faster R-CNN R50-C4 on PASCAL VOC, with which MoCo measures detection.

Paper:     He et al., CVPR 2020 (MoCo), https://arxiv.org/abs/1911.05722, appendix A and table 5
Data:      trainval of 2007 and 2012, test of 2007: the official archives in data_dir (see
           docs/dense_data.md), or python -m jssl.data.prepare voc/2007, and voc/2012
Target:    AP50 81.5, AP 55.9, AP75 62.6 (MoCo, mean of 5 runs); VOC's 11-point AP, the mean of ten
           overlaps, not COCO's. Frozen trunk, trainval of 2007: AP50 77.5 (BYOL, table 10; other
           optimiser and length). Not run here.
Hardware:  8 GPUs or v5e:8
Command:   jssl train --config=configs/faster_rcnn_voc.py:init=runs/moco --workdir=runs/moco_voc
Switches:  smoke, seed=N, epochs=N, init=WORKDIR[:step], whose model section it takes ('': random
           init); frozen: the trunk is not trained, trainval of 2007 alone
"""

from bases.faster_rcnn import EPOCHS

from jssl import config
from jssl.run import pretrained


def get_config(arg=""):
    s = config.switches(arg, smoke=False, seed=0, epochs=EPOCHS, init="", frozen=False)
    c = config.base("faster_rcnn", preset="c4")
    c.seed = s.seed
    c.optim.boundaries = tuple(b * s.epochs / c.epochs for b in c.optim.boundaries)
    c.optim.warmup_epochs *= min(1.0, s.epochs / c.epochs)
    c.epochs = s.epochs
    c.data.name = "voc"
    c.data.workers = 8
    if s.frozen:
        c.faster_rcnn.frozen_trunk = True
        c.data.train_split = "2007/trainval"
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    if s.smoke:
        config.smoke(c)
        c.data.name = "cutouts"
        c.data.train_split = ""
        numbers = {"before": 64, "after": 16, "anchors": 16, "regions": 16, "test_before": 64,
                   "test_after": 16, "sides": (128,), "test_side": 128}  # fmt: skip
        updates = {"augment": {"size": 128}, "faster_rcnn": numbers, "batch_size": 4}
        config.apply(c, {**updates, "monitor": {"every_epochs": 0.0}})
    return c
