"""Fine-tuning of a whole pre-trained network with 1 % or 10 % of ImageNet's labels.

Paper:     SimCLR, appendix B.5, https://arxiv.org/abs/2002.05709; BYOL, appendix C,
           https://arxiv.org/abs/2006.07733; SwAV, https://arxiv.org/abs/2006.09882, and
           https://github.com/facebookresearch/swav, eval_semisup.py
Data:      the public lists of 12,811 and 128,116 images, TFDS imagenet2012_subset:
           python -m jssl.data.prepare imagenet_1pct, imagenet_10pct (they need the archives)
Target:    ResNet-50, top-1 with 1 % and 10 %: SimCLR 48.3 and 65.6, BYOL 53.2 and 68.8 (papers),
           SwAV 53.9 and 70.2 (paper). Not run here.
           BYOL's rate and length are of a sweep of the paper (rates .005 .01 .02 .05 .1, 30 or 50
           epochs; it does not say which were best): choose on examples that are held out,
           --config.supervised.held_out=2000, and with jssl.run.selection.
           The papers of SimCLR and BYOL do not name the schedule: here it is the cosine.
           CPC v2 has a classifier of its own: jssl evaluate --protocol=label_efficient.
Hardware:  8 GPUs or a TPU v3-8
Command:   jssl train --config=configs/semi_imagenet.py:preset=byol,labels=1,init=runs/byol \\
           --workdir=runs/byol_1pct
Switches:  smoke, preset=simclr|byol|swav, labels=1|10 (per cent), init=WORKDIR[:step] of the
           pre-training, whose model section it takes ('': without pre-training), lr=RATE,
           epochs=N (0: preset's)
"""

from jssl import config
from jssl.errors import UserError, nearest
from jssl.run import pretrained

SGD = {"name": "sgd", "momentum": 0.9, "warmup_epochs": 0.0, "weight_decay": 0.0}
SWAV = {**SGD, "nesterov": False, "lr_scaling": "none", "schedule": "step",
        "boundaries": (12.0, 16.0), "step_factor": 0.2}  # fmt: skip
SIMCLR = {**SGD, "nesterov": True, "lr": 0.05, "lr_scaling": "linear", "schedule": "cosine"}
BYOL = {**SIMCLR, "lr": 0.01, "lr_scaling": "none"}
# (preset, per cent) -> global batch, epochs, times the rate that the classifier has, optimiser
RECIPES = {
    ("simclr", 1): (4096, 60.0, 1.0, SIMCLR),
    ("simclr", 10): (4096, 30.0, 1.0, SIMCLR),
    ("byol", 1): (1024, 30.0, 1.0, BYOL),
    ("byol", 10): (1024, 30.0, 1.0, BYOL),
    ("swav", 1): (256, 20.0, 5 / 0.02, {**SWAV, "lr": 0.02}),
    ("swav", 10): (256, 20.0, 0.2 / 0.01, {**SWAV, "lr": 0.01}),
}
# Whose model section stands where no run is named; SwAV's network is DeepCluster v2's.
MODELS = {
    "simclr": ("simclr", "v1"),
    "byol": ("byol", "imagenet"),
    "swav": ("deepcluster_v2", "v2"),
}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, preset="simclr", labels=1, init="", lr=0.0, epochs=0.0)
    if s.preset not in MODELS:
        raise UserError(f"Unknown switch value ':preset={s.preset}': {nearest(s.preset, MODELS)}.")
    if (s.preset, s.labels) not in RECIPES:
        raise UserError(f"There are lists of 1 and 10 per cent, found ':labels={s.labels}'.")
    method, preset = MODELS[s.preset]
    like = config.base(method, preset=preset)
    c = config.base("supervised", preset="imagenet")
    c.batch_size, epochs, c.supervised.head_lr, optim = RECIPES[s.preset, s.labels]
    config.apply(c, {"optim": optim})
    c.optim.lr = s.lr or c.optim.lr
    c.epochs = s.epochs or epochs
    c.supervised.label_smoothing = 0.0
    c.model.update(like.model)
    c.augment.normalize = like.augment.normalize
    c.data.name = f"imagenet_{s.labels}pct"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.monitor.every_epochs = 10.0
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
    return c
