"""BEiT fine-tuned on CIFAR-100 or CIFAR-10 at 224 px, from a run on ImageNet.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar100
Target:    CIFAR-100 test top-1 of BEiT-B (lecture and first version of the paper): 90.1 pre-trained
           on ImageNet-1k without labels, 91.8 fine-tuned on ImageNet-1k in between; for CIFAR-10
           no number is published. Augmentation, layer-wise decay and optimiser are those of the
           official fine-tuning on ImageNet; batch and epochs are ours, for the official code has
           no command for CIFAR. Not run here.
Hardware:  8 GPUs with 32 GB or a TPU v3-8
Command:   jssl train --config=configs/beit_cifar.py:init=WORKDIR --workdir=runs/beit_cifar100
           with WORKDIR of configs/beit_imagenet.py, or for 91.8 of beit_finetune_imagenet.py
Switches:  smoke, data=cifar100|cifar10, init=WORKDIR[:step] ('': none), model=vit_base|vit_large,
           epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, data="cifar100", init="runs/beit_imagenet", model="vit_base",
        epochs=100.0, batch=512,
    )  # fmt: skip
    c = config.base("supervised", preset="beit_imagenet")
    c.data.name = s.data
    c.dtype = "bfloat16"
    c.epochs, c.batch_size = s.epochs, s.batch
    c.model.name = s.model
    if s.model == "vit_large":
        c.model.layer_scale = 1e-5
        c.model.stochastic_depth = 0.2
        c.supervised.layer_decay = 0.75
    c.optim.lr = 2e-3 if s.model == "vit_base" else 5e-4  # half the official, for half its batch
    c.init_from = s.init
    if s.smoke:
        config.smoke(c)
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
        c.init_from = ""
    return c
