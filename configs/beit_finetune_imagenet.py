"""Fine-tuning of a BEiT encoder on ImageNet-1k: mean-pooled head, layer-wise decay.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, table 1 and appendix
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    top-1 at 224 px of base 83.2 after 800 epochs of ImageNet-1k (lecture and paper), 83.7
           and large 86.0 after ImageNet-22k without labels (official README). Augmentation is the
           official code's: timm's rand-m9-mstd0.5-inc1, random erasing .25, Mixup .8, CutMix 1,
           one lambda for each of 8 groups (its GPUs). Not run here.
Hardware:  batch 1024 on 8 GPUs with 32 GB (paper)
Command:   jssl train --config=configs/beit_finetune_imagenet.py --workdir=/mnt/BUCKET/beit_ft \\
           --distributed
Switches:  smoke, init=WORKDIR[:step] of a BEiT run ('': none), model=vit_base|vit_large,
           labels=SHARE
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, init="runs/beit_imagenet", model="vit_base", labels=1.0)
    c = config.base("supervised", preset="beit_imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.model.name = s.model
    if s.model == "vit_large":
        c.model.layer_scale = 1e-5
        c.model.stochastic_depth = 0.2
        c.optim.lr = 1e-3
        c.optim.warmup_epochs = 5.0
        c.epochs = 50.0
        c.supervised.layer_decay = 0.75
    c.init_from = s.init
    c.supervised.label_fraction = s.labels
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
        c.init_from = ""
    return c
