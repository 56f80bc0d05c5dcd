"""SimCLR on the embedded photographs: the main job, minutes on two CPU cores, no download.

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709 (CIFAR recipe, small net)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/simclr_photos.py --workdir=runs/simclr_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N, jitter=weak|paper

The classes are the photographs, which are told apart by their colours too. The paper's jitter and
grey views teach the network to ignore them: its kNN accuracy stops rising after the first epoch.
"weak" has a fifth of the jitter, no grey view and a temperature of 0.5; curves: docs/ablations.md.
"""

from bases.photos import small_resnet

from jssl import config
from jssl.errors import UserError, nearest

JITTER = {  # strength of the colour jitter, share of grey views, temperature
    "weak": (0.1, 0.0, 0.5),
    "paper": (0.5, 0.2, 0.2),
}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=5.0, size=32, seed=0, jitter="weak")
    if s.jitter not in JITTER:
        raise UserError(f"Unknown switch value ':jitter={s.jitter}': {nearest(s.jitter, JITTER)}.")
    c = config.base("simclr", preset="cifar")
    small_resnet(c, s)
    c.updates = "whole_epochs"  # 3,200 tiles are whole batches
    strength, gray_p, c.simclr.temperature = JITTER[s.jitter]
    config.apply(c, {"augment": {"options": {"strength": strength, "gray_p": gray_p}}})
    if s.smoke:
        config.smoke(c)
    return c
