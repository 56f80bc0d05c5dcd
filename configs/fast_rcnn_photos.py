"""Fast R-CNN on cut-outs of the embedded photographs: detection in minutes, no download.

Paper:     Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083
Data:      `cutouts`, six classes, 128 px, see jssl/data/cutouts.py, with anchor boxes as proposals;
           shows that code works, and is no benchmark
Numbers:   AP50 13.6, AP 4.9 after 8 epochs from a random init, seed 0: it learns, no more
Hardware:  2 CPU cores
Command:   jssl train --config=configs/fast_rcnn_photos.py:init=runs/alexnet --workdir=runs/detect
Switches:  smoke, epochs=N, seed=N, trained=all|fc6-8, init=WORKDIR[:step] of any run with AlexNet
           or VGG-16 on pictures of 224 px, whose model section it takes ('': random init)
"""

from bases.dense import ALEXNET, small_dense

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=20.0, seed=0, trained="all", init="")
    c = config.base("fast_rcnn", preset="cutouts")
    c.fast_rcnn.trained = s.trained
    small_dense(c, s, ALEXNET)
    if s.smoke:
        numbers = {"regions": 16, "detections": 8, "sides": (48, 64), "test_side": 64,
                   "anchor_sizes": (16.0, 32.0)}  # fmt: skip
        config.apply(c, {"fast_rcnn": numbers})
    return c
