"""DeepCluster v2 on ImageNet-1k with a ResNet-50 and multi-crop.

Paper:     Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882; settings of
           https://github.com/facebookresearch/swav, README.md and scripts/deepclusterv2_*.sh
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    linear top-1 on frozen features of the validation set: crops=2x160+4x96, 400 epochs 74.3;
           2x224, 400 epochs 70.2; 2x224+6x96, 800 epochs 75.2. Theirs are crops of the whole
           picture; here both sizes are cut on the device from its central square of 256 pixels.
           Not run here.
Hardware:  64 GPUs with 32 GB, or 32 TPU v3 cores
Command:   jssl train --config=configs/deepcluster_v2_imagenet.py --workdir=runs/dc2 --distributed
Switches:  smoke, crops=2x160+4x96|2x224|2x224+6x96, epochs=N, batch=N
"""

from jssl import config
from jssl.errors import UserError, nearest

# crops -> size of the large, number of the small ones, smallest area of the large, epochs
CROPS = {
    "2x160+4x96": (160, 4, 0.08, 400.0),
    "2x224": (224, 0, 0.08, 400.0),
    "2x224+6x96": (224, 6, 0.14, 800.0),
}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, crops="2x160+4x96", epochs=0.0, batch=4096)
    if s.crops not in CROPS:
        raise UserError(f"Unknown switch value ':crops={s.crops}': {nearest(s.crops, CROPS)}.")
    size, small_crops, smallest, epochs = CROPS[s.crops]
    c = config.base("deepcluster_v2", preset="v2")
    c.epochs = s.epochs or epochs
    c.batch_size = s.batch
    c.data.name = "imagenet2012"
    c.data.image_size = 256
    c.data.workers = 16
    c.augment.size = size
    c.augment.options.scale = (smallest, 1.0)
    c.deepcluster_v2.small_crops = small_crops
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
        c.deepcluster_v2.num_clusters = (8, 8, 8)
    return c
