"""CPC v2 on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272 (small patches and net)
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py; 7x7 patches of 8 px
Numbers:   docs/results.md, made from the records of runs: linear probe on the grid
Hardware:  2 CPU cores
Command:   jssl train --config=configs/cpc_photos.py --workdir=runs/cpc_photos
Switches:  smoke (a run of seconds), epochs=N, seed=N, form=projected|raw (the loss: targets
           projected to 64 dimensions and predictions times 0.1, or exp(z_hat^T z) of the latents)
"""

from bases.photos import on_photos

from jssl import config
from jssl.errors import UserError, nearest

# Of the loss: (cpc.target_dim, cpc.scale)
FORMS = {"projected": (64, 0.1), "raw": (0, 1.0)}


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=3.0, seed=0, form="projected")
    if s.form not in FORMS:
        raise UserError(f"Unknown switch value ':form={s.form}': {nearest(s.form, FORMS)}.")
    c = config.base("cpc", preset="cifar")
    on_photos(c, s, batch_size=32)
    c.data.tile = 32
    c.cpc.target_dim, c.cpc.scale = FORMS[s.form]
    c.model.name = "resnet8"
    c.model.stage_sizes = (1, 1)  # patches of 8 px: two groups leave 4x4
    c.model.width = 0.5
    c.cpc.context_blocks = 2
    c.cpc.context_hidden = 64
    c.cpc.average_momentum = 0.95
    c.cpc.drop_p = 0.5
    c.cpc.operations = 0
    c.cpc.warp_p = 0.0
    c.optim.lr = 1e-3
    c.optim.clip_norm = 1.0
    if s.smoke:
        config.smoke(c)
        c.model.name = "resnet8"
        c.model.stage_sizes = (1,)
        c.cpc.context_blocks = 1
        c.cpc.context_hidden = 16
        c.optim.clip_norm = 0.0
    return c
