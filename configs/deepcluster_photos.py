"""DeepCluster on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520 (small net, in colour)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/deepcluster_photos.py --workdir=runs/deepcluster_photos
Switches:  smoke (a run of seconds), epochs=N, size=32|64|96, seed=N
"""

from bases.photos import small_resnet

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=6.0, size=32, seed=0)
    c = config.base("deepcluster", preset="v1")
    small_resnet(c, s)
    c.model.stem = "cifar"
    c.model.sobel = False
    c.model.dropout = 0.0
    c.augment.normalize = "none"
    c.deepcluster.num_clusters = 100  # for 16 photographs: their parts
    c.deepcluster.pca_dim = 64
    if s.smoke:
        config.smoke(c)
        c.model.name, c.model.stage_sizes = "resnet8", (1,)
        c.deepcluster.num_clusters = 8
        c.deepcluster.pca_dim = 4  # more are noise that whitening blows up
    return c
