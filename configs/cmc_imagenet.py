"""CMC on ImageNet-1k with a ResNet-50 for each of two views, (L, ab) or (Y, CbCr).

Paper:     Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849; official code
           https://github.com/HobbitLong/CMC
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1/top-5 on the concatenated features of both views, validation set, 60
           epochs: two ResNet-50 (preset v2) 66.2/87.0, two ResNet-50 2x (v3) 70.6/89.7, as later
           papers quote them; the official linear evaluation reports its BEST epoch. A user of the
           code measured 62.0 with the released v2 weights (its issue 35). Not run here.
Hardware:  4 GPUs (batch statistics per GPU: model.bn_groups=4; on 8 devices type 8). The bank
           takes 1.3 GB of each device.
Command:   jssl train --config=configs/cmc_imagenet.py --workdir=/mnt/BUCKET/cmc --distributed
Switches:  smoke, preset=v1|v2|v3|alexnet, view=Lab|YCbCr (the README: 0.5 to 1 % better),
           contrast=nce|softmax|in_batch, negatives=N, epochs=N, batch=N
"""

from jssl import config
from jssl.errors import UserError, nearest

SPACES = {"Lab": ("l", "ab"), "YCbCr": ("y", "cbcr")}


def get_config(arg=""):
    s = config.switches(
        arg,
        smoke=False,
        preset="v2",
        view="Lab",
        contrast="nce",
        negatives=4096,
        epochs=240.0,
        batch=0,
    )
    if s.view not in SPACES:
        raise UserError(f"Unknown switch value view={s.view}: {nearest(s.view, SPACES)}.")
    c = config.base("cmc", preset=s.preset)
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.cmc.views = SPACES[s.view]
    c.cmc.contrast = s.contrast
    c.cmc.num_negatives = s.negatives
    c.epochs = s.epochs
    c.batch_size = s.batch or c.batch_size
    if s.smoke:
        config.smoke(c)
    return c
