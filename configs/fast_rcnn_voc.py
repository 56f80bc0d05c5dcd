"""Fast R-CNN on PASCAL VOC 2007, with which DeepCluster measures detection.

Paper:     Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520, tables 2 and 3; Girshick, ICCV
           2015, https://arxiv.org/abs/1504.08083
Data:      trainval and test of VOC 2007: the official archives in data_dir; boxes of selective
           search: selective_search_data.tgz of Fast R-CNN there, see docs/dense_data.md
Target:    protocol re-created: DeepCluster's prototxts were never released. Its AP50: 51.4
           (AlexNet, trained=fc6-8), 55.4 (AlexNet), 65.9 (VGG-16). Not run here.
Hardware:  1 GPU; two pictures a step
Command:   jssl train --config=configs/fast_rcnn_voc.py:init=runs/deepcluster,boxes=FOLDER \\
           --workdir=runs/deepcluster_voc
Switches:  smoke, seed=N, epochs=N, trained=all|fc6-8, boxes=FOLDER with voc_2007_trainval.mat and
           voc_2007_test.mat ('': refused; anchors: all anchor boxes, another protocol),
           init=WORKDIR[:step] with AlexNet or VGG-16, whose model section it takes ('': random
           init)
"""

from bases.dense import ALEXNET
from bases.fast_rcnn import EPOCHS

from jssl import config
from jssl.run import pretrained


def get_config(arg=""):
    s = config.switches(arg, smoke=False, seed=0, epochs=EPOCHS, trained="all", boxes="", init="")
    c = config.base("fast_rcnn", preset="voc")
    c.seed = s.seed
    c.launch = "jit"
    c.optim.boundaries = tuple(b * s.epochs / c.epochs for b in c.optim.boundaries)
    c.epochs = s.epochs
    c.data.name = "voc"
    c.data.workers = 8
    c.fast_rcnn.trained = s.trained
    c.fast_rcnn.proposals = s.boxes
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    if s.smoke:
        config.smoke(c)
        numbers = {"proposals": "anchors", "anchor_sizes": (32.0, 64.0), "sides": (128,),
                   "test_side": 128}  # fmt: skip
        data = {"name": "cutouts", "train_split": "", "test_split": ""}
        updates = {"augment": {"size": 128}, "model": ALEXNET, "data": data, "batch_size": 2,
                   "monitor": {"every_epochs": 0.0}}  # fmt: skip
        config.apply(c, {**updates, "fast_rcnn": numbers})
    return c
