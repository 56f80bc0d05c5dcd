"""BYOL on ImageNet-1k with a ResNet-50: the paper's run, and those of 300, 100 and 40 epochs.

Paper:     Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733, appendices F and J
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1/top-5 on frozen features of the validation set, last epoch, learning rate
           chosen on 10,009 held-out training images: 1000 epochs 74.3/91.6; 300 epochs 72.5/90.8;
           1000 epochs with batch 512 (lr 0.4, tau 0.9995) 73.7 top-1 (all: paper).
           Not run here.
Hardware:  batch 4096 on 512 TPU v3 cores, about 8 hours (paper)
Command:   jssl train --config=configs/byol_imagenet.py --workdir=/mnt/BUCKET/byol --distributed
Switches:  smoke, epochs=1000|300|100|40, batch=N, depth=18|34|50|101|152|200, width=1.0
"""

from jssl import config
from jssl.errors import UserError

PRESETS = {1000: "imagenet", 300: "imagenet_300", 100: "imagenet_100", 40: "imagenet_40"}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=1000, batch=4096, depth=50, width=1.0)
    if s.epochs not in PRESETS:
        raise UserError(
            f"BYOL has numbers for 1000, 300, 100 and 40 epochs, found :epochs={s.epochs}. Type "
            "one of these, and --config.epochs=N for another length with its learning rate."
        )
    c = config.base("byol", preset=PRESETS[s.epochs])
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.batch_size = s.batch
    c.model.name = f"resnet{s.depth}"
    c.model.width = s.width
    c.dtype = "bfloat16"
    # The target is to remember as many examples whatever the batch: tau to the power of its share.
    # At 512 this is the paper's 0.9995; a small batch with the large one's tau is much worse.
    c.byol.ema_momentum **= s.batch / 4096
    if s.epochs == 1000 and s.batch == 512:
        c.optim.lr = 0.4  # the paper's, with that batch
    if s.smoke:
        config.smoke(c)
        c.byol.proj_hidden = 64
    return c
