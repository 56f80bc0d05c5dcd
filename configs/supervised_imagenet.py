"""Supervised ResNet-50 on ImageNet-1k: baseline and teacher; or AlexNet and VGG-16.

Paper:     He et al., CVPR 2016, https://arxiv.org/abs/1512.03385; label smoothing and schedule
           of He et al., CVPR 2019, https://arxiv.org/abs/1812.01187
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    validation top-1 about 76 (torchvision's first ResNet-50 weights: 76.16 by timm's
           results table), last epoch, centre crop. Not run here.
           AlexNet and VGG-16, the rows "ImageNet labels" of DeepCluster's tables (VOC 2007
           detection 56.8 and 67.3; VGG-16's retrieval 72.4 on Oxford5k, 81.5 on Paris6k): how
           these were trained is not published. Here they are DeepCluster's networks, with batch
           normalisation, on colours without its Sobel filter, and the settings are those of
           torchvision's reference for VGG with batch normalisation: 90 epochs, batch 256, rate .1
           divided by 10 each 30 epochs, weight decay 1e-4 on everything.
Hardware:  8 GPUs or a TPU v3-8
Command:   jssl train --config=configs/supervised_imagenet.py --workdir=/mnt/BUCKET/supervised
Switches:  smoke, epochs=N, batch=N (0: 1024, of AlexNet and VGG-16 256), depth=18|34|50|101|152,
           model=resnet|alexnet|vgg16
"""

from jssl import config, models, optim
from jssl.errors import UserError, nearest

MODELS = ("resnet", "alexnet", "vgg16")


def plain(c, name, epochs):
    """Sets the network and torchvision's settings of AlexNet and VGG-16."""
    c.model.update({**models.DEFAULTS, "name": name, "sobel": False, "dropout": 0.5})
    steps = {"schedule": "step", "boundaries": (epochs / 3, 2 * epochs / 3), "step_factor": 0.1}
    config.apply(c, {"optim": {**steps, "nesterov": False, "warmup_epochs": 0.0,
                               "rules": optim.EVERYTHING}})  # fmt: skip
    c.supervised.label_smoothing = 0.0
    c.data.host_crop = "torchvision"
    c.augment.options.sampler = "torchvision"
    c.data.eval_interpolation = "bilinear"


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=90.0, batch=0, depth=50, model="resnet")
    if s.model not in MODELS:
        raise UserError(f"Unknown switch value ':model={s.model}': {nearest(s.model, MODELS)}.")
    c = config.base("supervised", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch or (1024 if s.model == "resnet" else 256)
    if s.model == "resnet":
        c.model.name = f"resnet{s.depth}"
    else:
        plain(c, s.model, s.epochs)
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
        c.model.dropout = 0.0
    return c
