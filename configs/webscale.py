"""Pre-training on web-scale shards of pictures: MoCo on a billion, DeepCluster on YFCC100M.

Paper:     MoCo: He et al., CVPR 2020, https://arxiv.org/abs/1911.05722, section 4: Instagram-1B,
           batch 1024 on 64 GPUs, rate .12, times .9 every 62,500 updates, 1,250,000 updates.
           DeepCluster: Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520, section 4.3:
           1,000,000 pictures drawn from YFCC100M, settings of ImageNet, k-means over all of them.
           SimCLR has no such run: settings of ImageNet (v1, batch 4096).
Data:      shards of WebDataset or array_record below data.data_dir, see docs/own_pictures.md.
           Instagram-1B is not public
Target:    MoCo, detection on VOC AP50/AP/AP75 82.2/57.2/63.7; DeepCluster, VOC 2007 FC6-8/ALL
           67.3/69.3. Not run here.
Hardware:  MoCo: 64 GPUs (the paper, 6 days) or v5e:8x8; DeepCluster: one GPU of 16 GB
Command:   jssl train --config=configs/webscale.py:shards=yfcc/*.tar --config.data.data_dir=/data \\
           --workdir=runs/moco_web --distributed
Switches:  smoke, method=moco|simclr|deepcluster, shards=PATTERN, images=N that the shards hold,
           from which the epochs of MoCo's updates are counted
"""

from jssl import config
from jssl.errors import UserError, nearest

PRESETS = {"moco": "v1", "simclr": "v1", "deepcluster": "v1"}
UPDATES, INTERVAL, BATCH, GPUS = 1_250_000, 62_500, 1024, 64


def get_config(arg=""):
    s = config.switches(arg, smoke=False, method="moco", shards="*.tar", images=940_000_000)
    if s.method not in PRESETS:
        choices = nearest(s.method, PRESETS)
        raise UserError(f"Unknown switch value ':method={s.method}': {choices}.")
    c = config.base(s.method, preset=PRESETS[s.method])
    c.data.name = f"shards:{s.shards}"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.data.on_error = "skip"  # a web-scale set has pictures that cannot be read
    c.dtype = "bfloat16"
    if s.method == "moco":
        c.batch_size = BATCH
        c.model.bn_groups = GPUS
        c.updates = "examples"
        c.epochs = UPDATES * BATCH / s.images
        c.optim.lr, c.optim.lr_scaling, c.optim.schedule = 0.12, "none", "exponential"
        c.optim.boundaries = ()
        c.optim.step_factor = 0.9
        c.optim.decay_epochs = INTERVAL * BATCH / s.images
    c.monitor.every_epochs = c.epochs / 20  # without labels: the metrics of a collapse
    if s.smoke:
        config.smoke(c)
        c.data.name = "photos"
        c.data.on_error = "stop"
        if s.method == "moco":
            c.model.bn_groups = 8
        elif s.method == "deepcluster":
            c.model.dropout = 0.0
            c.deepcluster.num_clusters, c.deepcluster.pca_dim = 8, 4
    return c
