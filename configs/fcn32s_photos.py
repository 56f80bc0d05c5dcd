"""FCN-32s on cut-outs of the embedded photographs: segmentation in minutes, no download.

Paper:     Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038
Data:      `cutouts`, six classes, 192 px, see jssl/data/cutouts.py; shows that code works, and is
           no benchmark
Numbers:   mIoU 16.7 after 12 epochs from a random init, seed 0 (background alone: 10.4)
Hardware:  2 CPU cores
Command:   jssl train --config=configs/fcn32s_photos.py:init=runs/alexnet --workdir=runs/segment
Switches:  smoke, epochs=N, seed=N, trained=all|fc6-8, init=WORKDIR[:step] of any run with AlexNet
           on pictures of 224 px, whose model section it takes ('': random init)
"""

from bases.dense import ALEXNET, small_dense

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=20.0, seed=0, trained="all", init="")
    c = config.base("fcn32s", preset="cutouts")
    c.fcn32s.trained = s.trained
    small_dense(c, s, ALEXNET)
    return c
