"""VICReg on ImageNet-1k with a ResNet-50: the paper's run.

Paper:     Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906, table 1
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1 on frozen features of the validation set, 1000 epochs, batch 2048: 73.2
           (paper and official README). The official code prints the best epoch of the linear head
           too, here it is the last. Not run here.
Hardware:  batch 2048 on 32 GPUs (official README: 4 nodes of 8)
Command:   jssl train --config=configs/vicreg_imagenet.py --workdir=/mnt/BUCKET/vicreg --distributed
Switches:  smoke, epochs=N, batch=N, depth=18|34|50|101|152|200, width=1.0
"""

from jssl import config, optim


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=1000.0, batch=2048, depth=50, width=1.0)
    c = config.base("vicreg", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = f"resnet{s.depth}"
    c.model.width = s.width
    c.dtype = "bfloat16"
    # The cosine ends at a thousandth of the peak, which is scaled with the batch.
    c.optim.end_lr = 1e-3 * optim.scale(c.optim.lr, batch_size=s.batch, scaling="linear")
    if s.smoke:
        config.smoke(c)
        c.vicreg.proj_hidden = 64
        c.vicreg.proj_dim = 64
    return c
