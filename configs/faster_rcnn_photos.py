"""Faster R-CNN on cut-outs of the embedded photographs: detection in minutes, no download.

Paper:     Ren et al., NeurIPS 2015, https://arxiv.org/abs/1506.01497
Data:      `cutouts`, six classes, 128 px, see jssl/data/cutouts.py; shows that code works, and is
           no benchmark
Numbers:   docs/dense.md
Hardware:  2 CPU cores
Command:   jssl train --config=configs/faster_rcnn_photos.py:init=runs/simclr_64 \\
           --workdir=runs/detect
Switches:  smoke, epochs=N, seed=N, init=WORKDIR[:step] of any run with a ResNet, whose model
           section it takes ('': random init)
"""

from bases.dense import small_dense

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=20.0, seed=0, init="")
    c = config.base("faster_rcnn", preset="cutouts")
    small_dense(c, s)
    if s.smoke:
        numbers = {"before": 64, "after": 16, "anchors": 16, "regions": 16, "test_before": 64,
                   "test_after": 16, "detections": 8, "precise_batches": 2}  # fmt: skip
        numbers |= {"sides": (48, 64), "test_side": 64, "anchor_sizes": (16.0, 32.0)}
        config.apply(c, {"faster_rcnn": numbers})
    return c
