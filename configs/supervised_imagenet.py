"""Supervised ResNet-50 on ImageNet-1k: baseline and teacher.

Paper:     He et al., CVPR 2016, https://arxiv.org/abs/1512.03385; label smoothing and schedule
           of He et al., CVPR 2019, https://arxiv.org/abs/1812.01187
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    validation top-1 about 76 (torchvision's first ResNet-50 weights: 76.16 by timm's
           results table), last epoch, centre crop. Not run here.
Hardware:  8 GPUs or a TPU v3-8
Command:   jssl train --config=configs/supervised_imagenet.py --workdir=/mnt/BUCKET/supervised
Switches:  smoke, epochs=N, batch=N, depth=18|34|50|101|152
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=90.0, batch=1024, depth=50)
    c = config.base("supervised", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = f"resnet{s.depth}"
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
    return c
