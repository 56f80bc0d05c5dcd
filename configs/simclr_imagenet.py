"""SimCLR on ImageNet-1k with a ResNet-50: the paper's run (v1) or SimCLRv2's (v2).

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, table 6; v2: Chen et al.,
           NeurIPS 2020, https://arxiv.org/abs/2006.10029
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1/top-5 on frozen features of the validation set, last epoch: v1, 1000
           epochs 69.3/89.0 (paper); v1, 100 epochs about 64.5 (official README); v2, 800 epochs
           71.7 (official README). Not run here.
Hardware:  batch 4096 on 32 TPU v3 cores or more, or 32 GPUs
Command:   jssl train --config=configs/simclr_imagenet.py --workdir=/mnt/BUCKET/simclr --distributed
Switches:  smoke, preset=v1|v2, epochs=N, batch=N, depth=18|34|50|101|152|200, width=1.0
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, preset="v1", epochs=0.0, batch=4096, depth=50, width=1.0)
    c = config.base("simclr", preset=s.preset)
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.epochs = s.epochs or {"v1": 1000.0, "v2": 800.0}[s.preset]
    c.batch_size = s.batch
    c.model.name = f"resnet{s.depth}"
    c.model.width = s.width
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
    return c
