"""BEiT fine-tuned on CIFAR-100 or CIFAR-10 at 224 px, also after fine-tuning on ImageNet.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, appendix, table 13
Data:      CIFAR through TFDS: python -m jssl.data.prepare cifar100
Target:    test top-1 on CIFAR-100 of base (lecture and paper): 90.1 from BEiT's pre-training on
           ImageNet-1k, 91.8 after intermediate fine-tuning on ImageNet-1k, that is with init= the
           workdir of configs/beit_finetune_imagenet.py, whose head is replaced. Not run here.
           The settings are table 13's: 150 epochs, batch 512, warm-up 20, layer decay .65, weight
           decay .3, repeated augmentation, no erasing; the rest as on ImageNet. The rate was chosen
           from LRS; the paper does not say which was best, nor on which images: choose on examples
           that are held out, --config.supervised.held_out=5000, and with jssl.run.selection.
           Other settings after intermediate fine-tuning are not published.
           Whole pictures at 224 px are judged, where the official code crops 224 of 256.
Hardware:  8 GPUs
Command:   jssl train --config=configs/beit_finetune_cifar.py:init=runs/beit_imagenet \\
           --workdir=runs/beit_cifar100
Switches:  smoke, data=cifar100|cifar10, init=WORKDIR[:step] of a run of beit, or of its fine-tuning
           ('': none), lr=RATE, epochs=N
"""

from jssl import config
from jssl.run import pretrained

LRS = (2e-3, 3e-3, 4e-3, 5e-3)


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="cifar100", init="", lr=3e-3, epochs=150.0)
    c = config.base("supervised", preset="beit_imagenet")
    c.data.name = s.data
    c.dtype = "bfloat16"
    c.batch_size, c.epochs = 512, s.epochs
    c.optim.lr, c.optim.weight_decay = s.lr, 0.3
    c.supervised.erasing_p, c.supervised.repeated_augmentation = 0.0, 3
    if s.smoke:
        config.smoke(c)
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
    if s.init:
        finetuned = {key: c.model[key] for key in ("vit_init", "pool", "mask_token")}
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
        c.model.update({**finetuned, "stochastic_depth": 0.1})
        if c.model.relative_bias == "shared":
            c.model.relative_bias = "own"
    return c
