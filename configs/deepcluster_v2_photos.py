"""DeepCluster v2 on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882 (small net)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/deepcluster_v2_photos.py --workdir=runs/deepcluster_v2_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=4.0, size=32, seed=0)
    c = config.base("deepcluster_v2", preset="cifar")
    small_resnet(c, s)
    c.augment.name = "simclr_cifar"
    c.augment.normalize = "none"
    c.deepcluster_v2.num_clusters = (100, 100, 100)
    c.deepcluster_v2.proj_hidden = 256
    c.deepcluster_v2.small_crops = 2
    c.deepcluster_v2.small_size = s.size // 2
    c.deepcluster_v2.small_scale = (0.1, 0.4)
    if s.smoke:
        config.smoke(c)
        c.model.name, c.model.stage_sizes = "resnet8", (1,)
        c.deepcluster_v2.num_clusters = (8, 8, 8)
        c.deepcluster_v2.temperature = 0.5  # of a tenth, a ReLU at its edge shows in the gradient
        c.deepcluster_v2.proj_hidden = 16
        c.deepcluster_v2.proj_dim = 8
    return c
