"""Segmentation of cut-outs of the embedded photographs: minutes on two CPU cores, no download.

Paper:     Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038; MoCo, appendix A.5
Data:      `cutouts`, six classes, 128 px, see jssl/data/cutouts.py; shows that code works, and is
           no benchmark
Numbers:   docs/dense.md
Hardware:  2 CPU cores
Command:   jssl train --config=configs/fcn_photos.py:init=runs/simclr_64 --workdir=runs/segment
Switches:  smoke, epochs=N, seed=N, init=WORKDIR[:step] of any run with a ResNet, whose model
           section it takes ('': random init)
"""

from bases.dense import small_dense

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=20.0, seed=0, init="")
    c = config.base("fcn", preset="cutouts")
    small_dense(c, s)
    if s.smoke:
        config.apply(c, {"fcn": {"features": 8}, "augment": {"size": 48}, "data": {}})
        c.fcn.test_size = 64
    return c
