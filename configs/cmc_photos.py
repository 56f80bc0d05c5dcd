"""CMC on the embedded photographs: luminance against chrominance, minutes on two CPU cores.

Paper:     Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849 (two views, small nets)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/cmc_photos.py --workdir=runs/cmc_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N, contrast=softmax|nce|in_batch
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, size=32, seed=0, contrast="softmax")
    c = config.base("cmc", preset="v1")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.model.stem_width_fixed = False
    c.model.bn_groups = 1
    c.cmc.contrast = s.contrast  # NCE's Z, frozen at the first batch, is far off for small data
    c.cmc.num_negatives = 512
    c.optim.schedule = "cosine"
    c.optim.boundaries = ()
    if s.smoke:
        config.smoke(c)
        c.cmc.num_negatives = 64
    return c
