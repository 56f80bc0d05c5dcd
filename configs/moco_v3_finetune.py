"""MoCo v3's ViT fine-tuned on ImageNet-1k, CIFAR-10 or CIFAR-100, all layers, with DeiT's recipe.

Paper:     Chen et al., ICCV 2021, https://arxiv.org/abs/2104.02057;
           https://github.com/facebookresearch/moco-v3, README.md and transfer/README.md
Data:      ImageNet-1k: python -m jssl.data.prepare imagenet2012 (needs the archives);
           CIFAR: python -m jssl.data.prepare cifar100
Target:    top-1 of ViT-B: ImageNet 83.2, CIFAR-10 98.9, CIFAR-100 90.5 (official READMEs), where
           the lecture's table has 87.1 for CIFAR-100; ViT-S on ImageNet 81.4. Not run here.
           ImageNet is DeiT's recipe, 150 epochs for ViT-B, DeiT's 300 for others (official).
           CIFAR is the official command: 100 epochs, batch 1024, rate 3e-4 B/512, weight decay .1,
           Mixup .5 (CIFAR-10 .8), CutMix 1, random crops and flips only, no erasing.
           Two things differ: the official code learns the positions, which stay fixed here; it
           judges 224 px of CIFAR's picture at 256 px, here the whole picture is judged at 224 px.
Hardware:  8 GPUs
Command:   jssl train --config=configs/moco_v3_finetune.py:init=runs/moco_v3_b \\
           --workdir=runs/moco_v3_b_imagenet
Switches:  smoke, source=imagenet2012|cifar10|cifar100, init=WORKDIR[:step] of MoCo v3, whose model
           section it takes ('': none), epochs=N (0: the recipe's), batch=N
"""

from jssl import config
from jssl.errors import UserError, nearest
from jssl.run import pretrained

MIXUP = {"imagenet2012": 0.8, "cifar10": 0.8, "cifar100": 0.5}
CIFAR_AUGMENT = {"scale": (0.05, 1.0), "resize": "bilinear", "policy_ops": 0}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, source="imagenet2012", init="", epochs=0.0, batch=1024)
    if s.source not in MIXUP:
        raise UserError(f"Unknown switch value ':source={s.source}': {nearest(s.source, MIXUP)}.")
    c = config.base("deit", preset="imagenet")
    c.data.name = s.source
    c.dtype = "bfloat16"
    c.batch_size = s.batch
    c.model.update({"name": "vit_base", "heads": 12, "position": "sincos", "vit_init": "moco_v3"})
    c.deit.mix_groups = 8
    c.deit.mixup_alpha = MIXUP[s.source]
    if s.source == "imagenet2012":
        c.data.host_crop = "torchvision"
        c.data.workers = 16
    else:
        c.deit.erasing_p, c.deit.repeated_augmentation = 0.0, 1
        c.optim.lr, c.optim.weight_decay, c.optim.warmup_epochs = 1.5e-4, 0.1, 3.0
        c.augment.options.update(CIFAR_AUGMENT)
    if s.smoke:
        config.smoke(c)
        c.model.heads = 3
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
        c.model.stochastic_depth = 0.1
    recipe = 100.0 if s.source != "imagenet2012" else 150.0
    if s.source == "imagenet2012" and c.model.name != "vit_base":
        recipe = 300.0
    c.epochs = s.epochs or recipe
    return c
