"""MoCo on ImageNet-1k: v1, v2 and v3 with a ResNet-50, v3 with a ViT, the papers' runs.

Paper:     v1: He et al., CVPR 2020, https://arxiv.org/abs/1911.05722; v2: Chen et al., 2020,
           https://arxiv.org/abs/2003.04297; v3: Chen et al., ICCV 2021,
           https://arxiv.org/abs/2104.02057
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1 on frozen features of the validation set, last epoch: v1, 200 epochs 60.6;
           v2, 200/800 epochs 67.5/71.1; v3, 100/300/1000 epochs 68.9/72.8/74.6; v3_vit, 300
           epochs, ViT-S 73.2, ViT-B 76.7 (fine-tuned by DeiT's recipe 81.4, 83.2). Not run here.
Hardware:  v1 and v2 (batch 256): 8 GPUs; v3 (batch 4096): 16 GPUs or 32 TPU v3 cores; v3_vit:
           32 GPUs for ViT-S, 64 for ViT-B
Command:   jssl train --config=configs/moco_imagenet.py --workdir=/mnt/BUCKET/moco --distributed
Switches:  smoke, preset=v1|v2|v3|v3_vit, epochs=N, batch=N, width=1.0,
           depth=18|34|50|101|152|200 of the ResNet, arch=vit_small|vit_base|vit_large of the ViT
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(
        arg,
        smoke=False,
        preset="v2",
        epochs=0.0,
        batch=0,
        depth=50,
        width=1.0,
        arch="vit_small",
    )
    c = config.base("moco_v3" if s.preset.startswith("v3") else "moco", preset=s.preset)
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.epochs = s.epochs or c.epochs
    c.batch_size = s.batch or c.batch_size
    c.model.name = s.arch if s.preset == "v3_vit" else f"resnet{s.depth}"
    if c.model.name == "vit_large":
        c.model.heads = 16  # 12 in the small one and the base
    c.model.width = s.width
    c.dtype = "bfloat16"
    if s.preset == "v1":  # 120 and 160 of 200
        c.optim.boundaries = (0.6 * c.epochs, 0.8 * c.epochs)
    elif s.preset == "v3" and c.epochs > 100:  # CONFIG.md: 300 and 1000 epochs
        c.optim.lr = 0.3
        if c.epochs >= 1000:
            c.optim.weight_decay = 1.5e-6
            c.moco_v3.ema_momentum = 0.996
    if s.smoke:
        config.smoke(c)
    return c
