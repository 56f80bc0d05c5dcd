"""DeiT fine-tuned on CIFAR-10 or CIFAR-100 at 224 px, from a run on ImageNet.

Paper:     Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877
Data:      CIFAR-10/100 through TFDS: python -m jssl.data.prepare cifar10
Target:    test top-1 of DeiT-B fine-tuned from ImageNet (paper): CIFAR-10 99.1, CIFAR-100 90.8.
           Settings of the authors (issue 45 of the official code): SGD, lr 0.01, batch 768, weight
           decay 1e-4, 1000 epochs, no erasing, no stochastic depth; the rest (RandAugment, Mixup,
           CutMix, repeated augmentation, schedule) as on ImageNet. Not run here.
Hardware:  8 GPUs or a TPU v3-8
Command:   jssl train --config=configs/deit_cifar.py:start_from=WORKDIR --workdir=runs/deit_cifar10
Switches:  smoke, data=cifar10|cifar100, model=tiny|small|base, start_from=WORKDIR[:step] (of
           deit_imagenet), epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, data="cifar10", model="base", start_from="", epochs=1000.0, batch=768
    )
    c = config.base("deit", preset="imagenet")
    c.data.name = s.data
    c.dtype = "bfloat16"
    c.epochs, c.batch_size = s.epochs, s.batch
    c.model.name = f"vit_{s.model}"
    c.model.stochastic_depth = 0.0
    c.init_from = s.start_from
    c.deit.erasing_p = 0.0
    c.deit.mix_groups = 8
    c.optim.name, c.optim.lr, c.optim.lr_scaling = "sgd", 0.01, "none"
    c.optim.weight_decay = 1e-4
    if s.smoke:
        config.smoke(c)
        c.model.heads = 3
    return c
