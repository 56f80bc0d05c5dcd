"""Noisy Student on SVHN: EfficientNet-B0 at 32 px, 531,131 unlabelled digits.

Paper:     Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252; the setting is that of
           https://github.com/google-research/noisystudent, local_scripts/svhn
Data:      SVHN, cropped digits, through TFDS: python -m jssl.data.prepare svhn_cropped. Labelled:
           train without its first 4,000 (the official dev set); unlabelled: the `extra` split
Target:    test top-1 97.9 (teacher) -> 98.6 +- .1 (student), the official README's, last epoch,
           averaged weights, plain 32 px images. Not run here.
Hardware:  one GPU with 16 GB
Command:   jssl train --config=configs/noisy_student_svhn.py --workdir=runs/noisy_student_svhn
Switches:  smoke, epochs=N, generations=N, seed=N
"""

import math

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=200.0, generations=1, seed=0)
    c = config.base("noisy_student", preset="svhn")
    c.seed = s.seed
    c.epochs = s.epochs
    c.data.name = "svhn_cropped"
    c.data.train_split = "train[4000:]"
    c.data.workers = 4
    c.noisy_student.unlabeled_name = "svhn_cropped"
    c.noisy_student.unlabeled_split = "extra"
    # The rate ends at 2e-4 for a batch of 256 (`final_base_lr`): so long is a stair of 0.97.
    stairs = math.log(2e-4 / c.optim.lr) / math.log(c.optim.step_factor)
    c.optim.decay_epochs = (s.epochs - c.optim.warmup_epochs) / stairs
    again = [{"stage": "label"}, {"stage": "student"}] * s.generations
    config.apply(c, {"noisy_student": {"stages": ({"stage": "teacher"}, *again)}})
    if s.smoke:
        config.smoke(c)
        c.model.name = "efficientnet_b0"
        c.noisy_student.min_confidence = 0.0
        c.noisy_student.empty_classes = "allow"
    return c
