"""Fine-tuning of a pre-trained network on one of the transfer data sets.

Paper:     Kornblith et al., https://arxiv.org/abs/1805.08974; SimCLR, appendix B.8,
           https://arxiv.org/abs/2002.05709; BYOL, appendix D, https://arxiv.org/abs/2006.07733
Data:      a set of jssl/evaluate/protocols/transfer_sets.py but voc2007, which has several labels
           an image and is a protocol: jssl evaluate --protocol=voc2007_finetune;
           python -m jssl.data.prepare pets
Target:    ResNet-50 of BYOL: Food-101 88.5, CIFAR-10 97.8, CIFAR-100 86.1, Birdsnap 76.3, SUN397
           63.7, Cars 91.6, Aircraft 88.1, DTD 76.2, Pets 91.7, Caltech-101 93.8, Flowers 97.0
           (BYOL, table 3). Not run here.
Hardware:  1 GPU a run; the grid of LRS and WDS below is 56 runs
Command:   jssl train --config=configs/finetune_transfer.py:source=pets,init=runs/byol,lr=1e-2 \\
           --workdir=runs/pets_lr2
           for each of the grid, judged on validation examples only; python -m jssl.run.selection
           runs/pets_* names the best; and that one with the switch final, on train and validation
           together and judged on the test split.
Switches:  smoke, source=NAME, init=WORKDIR[:step] of the pre-training, whose model section it
           takes ('': random init, for which the papers have 40,000 steps and other grids), lr=RATE,
           wd=DECAY before it is divided by the rate, steps=N, final
"""

import numpy as np

from jssl import config
from jssl.errors import UserError, nearest
from jssl.evaluate import TRANSFER_SETS
from jssl.run import pretrained

LRS = tuple(float(x) for x in np.logspace(-4, -1, 7))
WDS = (0.0, *(float(x) for x in np.logspace(-6, -3, 7)))
SETS = [name for name in TRANSFER_SETS if name != "voc2007"]
BATCH = 256


def get_config(arg=""):
    s = config.switches(
        arg,
        smoke=False,
        source="pets",
        init="",
        lr=1e-2,
        wd=1e-5,
        steps=20_000,
        final=False,
    )
    if s.source == "voc2007":
        raise UserError(
            "VOC 2007 has several labels an image: train it by jssl evaluate --workdir=DIR "
            "--protocol=voc2007_finetune."
        )
    if s.source not in SETS:
        raise UserError(f"Unknown switch value ':source={s.source}': {nearest(s.source, SETS)}.")
    known = TRANSFER_SETS[s.source]
    train, validation, _ = known.sizes
    per_epoch = (train + validation if s.final else train) // BATCH
    c = config.base("supervised", preset="imagenet")
    c.batch_size = BATCH
    c.epochs = s.steps / per_epoch
    c.supervised.label_smoothing = 0.0
    c.data.name = s.source
    c.data.host_crop = "tf"
    c.data.workers = 8
    if s.final:
        both = "trainval" if known.validation == "val" else f"{known.train}+{known.validation}"
        c.data.train_split = both if known.validation else known.train
        c.data.test_split = known.test
    else:
        c.data.train_split = known.train
        c.data.test_split = known.validation
        c.supervised.held_out = 0 if known.validation else validation
    c.optim.lr = s.lr
    c.optim.lr_scaling = "none"
    c.optim.weight_decay = s.wd / s.lr
    c.optim.warmup_epochs = 0.0
    c.monitor.every_epochs = c.epochs / 10
    if s.smoke:
        config.smoke(c)
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    c.model.bn_momentum = max(1 - 10 / per_epoch, 0.9)
    return c
