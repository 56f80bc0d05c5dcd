"""CPC v2 on ImageNet-1k with a ResNet-161 or ResNet-50.

Paper:     Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1/top-5 of a linear probe on the frozen 6x6 grid, validation set: ResNet-161
           71.5/90.1, ResNet-50 63.8/85.3; label-efficient classifier, top-5 with 1 % and 10 % of
           the labels: 77.9 and 91.2 (paper). Not run here. The paper's crop is of an image resized
           to 300x300, here of its original shape; the optimiser's numbers are the ones that
           re-implementations report. depth=50 is ResNet-50's first three stacks, 1024 channels;
           the paper's 24 M parameters show that its own was wider or deeper.
Hardware:  batch 512 on 32 TPU v3 cores
Command:   jssl train --config=configs/cpc_imagenet.py --workdir=/mnt/BUCKET/cpc --distributed
           then, for the label-efficient classifier, with labels drawn here or of the public lists:
           jssl evaluate --workdir=/mnt/BUCKET/cpc --protocol=label_efficient --fraction=0.01,0.1
           jssl evaluate --workdir=/mnt/BUCKET/cpc --protocol=label_efficient \\
           --source=imagenet_1pct
Switches:  smoke, epochs=N, batch=N, depth=161|50
"""

from jssl import config
from jssl.errors import UserError


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=200.0, batch=512, depth=161)
    if s.depth not in (50, 161):
        raise UserError(f"Switch ':depth' expects 161 or 50, found {s.depth}. Type :depth=161.")
    c = config.base("cpc", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "device"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch
    if s.depth == 50:
        c.model.name = "resnet50"
        c.model.stage_sizes = (3, 4, 6)
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
        c.model.stage_sizes = (1, 1, 1)
        c.cpc.patch, c.cpc.stride = 8, 4
    return c
