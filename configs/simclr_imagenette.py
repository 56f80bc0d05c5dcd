"""SimCLR on Imagenette (160 px pictures, trained at 128 px) or STL-10 (96 px, unlabelled split).

Paper:     Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709
Data:      TFDS: python -m jssl.data.prepare imagenette   (or stl10)
Target:    Imagenette, ResNet-18, batch 256, 800 epochs: kNN top-1 88.9 (k=20, backbone features,
           best over epochs on the test split; lightly's benchmark). Not run here.
           STL-10: no published number for this recipe.
Hardware:  one GPU with 16 GB
Command:   jssl train --config=configs/simclr_imagenette.py --workdir=runs/simclr_imagenette
Switches:  smoke, data=imagenette|stl10, epochs=N, batch=N
"""

from jssl import config
from jssl.errors import UserError, nearest

SIZES = {"imagenette": 128, "stl10": 96}  # of the views, pixels


def get_config(arg=""):
    s = config.switches(arg, smoke=False, data="imagenette", epochs=800.0, batch=256)
    c = config.base("simclr", preset="v1")
    if s.data not in SIZES:
        raise UserError(f"Switch ':data' has no '{s.data}': {nearest(s.data, SIZES)}.")
    c.data.name = s.data
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = "resnet18"
    c.augment.size = SIZES[s.data]
    c.data.host_crop = "tf" if s.data == "imagenette" else "device"  # its pictures differ in size
    c.data.workers = 4
    c.simclr.temperature = 0.5
    c.optim.lr_scaling = "sqrt"
    c.optim.lr = 0.075
    if s.smoke:
        config.smoke(c)
    return c
