"""Fine-tuning of configs/beit_photos.py with 10 % of the labels, or the same without pre-training.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py; 20 labelled tiles a class
Numbers:   docs/results.md, row "own classifier": after BEiT 80.8, 82.9 and 79.0 %,
           without pre-training 77.7, 79.8 and 78.2 % (seeds 0, 1, 2; 24 November 2026)
Hardware:  2 CPU cores
Command:   jssl train --config=configs/beit_finetune_photos.py --workdir=runs/beit_finetune_photos
           after configs/beit_photos.py; without pre-training configs/beit_finetune_photos.py:init=
Switches:  smoke, init=WORKDIR[:step] ('': none), epochs=N, labels=SHARE, seed=N
"""

from bases.photos import on_photos

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, init="runs/beit_photos", epochs=60.0, labels=0.1, seed=0)
    c = config.base("supervised", preset="beit")
    on_photos(c, s, batch_size=32)
    c.model.name = "vit_tiny"  # as configs/beit_photos.py
    c.model.patch_size = 4
    c.model.depth = 4
    c.model.width = 0.5
    c.model.stochastic_depth = 0.0
    c.augment.size = 32
    c.augment.options.scale = (0.4, 1.0)
    c.optim.lr = 2e-3
    c.optim.warmup_epochs = 5.0
    c.init_from = s.init
    c.supervised.label_fraction = s.labels
    c.supervised.layer_decay = 0.75
    c.log.every_steps = 50
    c.checkpoint.every_steps = 500
    c.monitor.every_epochs = 20.0
    if s.smoke:
        config.smoke(c)
        c.model.width = 0.125
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
        c.init_from = ""
    return c
