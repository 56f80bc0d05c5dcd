"""FCN-32s of AlexNet on PASCAL VOC, with which DeepCluster measures segmentation.

Paper:     Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520, table 2; Long et al., CVPR
           2015, https://arxiv.org/abs/1411.4038
Data:      SBD's train, and 736 pictures of VOC 2011's val that are not in it: the official archives
           of VOC 2012 and of SBD in data_dir (see docs/dense_data.md), and seg11valid.txt of
           github.com/shelhamer/fcn.berkeleyvision.org, data/pascal, in ImageSets/Segmentation
Target:    protocol re-created: DeepCluster's prototxts were never released. Its mIoU: 43.2
           (trained=fc6-8), 45.1. Not run here.
Hardware:  1 GPU; twenty pictures a step
Command:   jssl train --config=configs/fcn32s_voc.py:init=runs/deepcluster \\
           --workdir=runs/deepcluster_seg
Switches:  smoke, seed=N, epochs=N, trained=all|fc6-8, init=WORKDIR[:step] with AlexNet, whose model
           section it takes ('': random init)
"""

from bases.dense import ALEXNET
from bases.fcn32s import EPOCHS

from jssl import config
from jssl.run import pretrained


def get_config(arg=""):
    s = config.switches(arg, smoke=False, seed=0, epochs=EPOCHS, trained="all", init="")
    c = config.base("fcn32s", preset="voc")
    c.seed = s.seed
    c.launch = "jit"
    c.epochs = s.epochs
    c.data.name = "voc"
    c.data.workers = 8
    c.fcn32s.trained = s.trained
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    if s.smoke:
        config.smoke(c)
        data = {"name": "cutouts", "train_split": "", "test_split": ""}
        updates = {"augment": {"size": 128}, "model": ALEXNET, "data": data, "batch_size": 4,
                   "monitor": {"every_epochs": 0.0}}  # fmt: skip
        config.apply(c, updates)
    return c
