"""DeiT on the embedded photographs: a small ViT that learns from a convolutional teacher.

Paper:     Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs. What else was tried: a
           teacher of 4 epochs (its own top-1 79 and not 88 %): the student gains 3.5, 0.8 and -0.1
           points over three seeds; both students for 20 epochs, seed 0: 81.9 with the teacher and
           81.8 without; soft distillation (temperature 3, weight 1/2), 10 epochs, seed 0: 73.2.
           An EfficientNet-Lite0 of ImageNet, fine-tuned to 96.5 %, is no better teacher:
           docs/lite0.md.
Hardware:  2 CPU cores
Command:   jssl train --config=configs/supervised_photos.py:epochs=12 --workdir=runs/teacher
           jssl train --config=configs/deit_photos.py:teacher=runs/teacher
               --workdir=runs/deit_photos
           without the teacher: --config=configs/deit_photos.py:distill=none
Switches:  smoke (a run of seconds), distill=hard|soft|none, teacher=WORKDIR, epochs=N, seed=N
"""

from bases.photos import on_photos

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, distill="hard", teacher="", epochs=10.0, seed=0)
    c = config.base("deit", preset="small")
    on_photos(c, s, batch_size=64)
    c.augment.options.scale = (0.4, 1.0)
    c.deit.distillation = s.distill
    c.deit.teacher = s.teacher
    c.model.distillation_token = s.distill != "none"
    if s.smoke:
        config.smoke(c)
        c.optim.warmup_epochs = 0.5
        c.model.heads = 3
        if s.distill != "none" and not s.teacher:
            c.deit.untrained_teacher = True
            c.deit.teacher_config = _untrained().to_json()
    return c


def _untrained():
    c = config.base("supervised", preset="cifar")
    config.smoke(c)
    c.optim.warmup_epochs = 0.0
    c.supervised.num_classes = 16
    c.augment.normalize = "none"
    return c
