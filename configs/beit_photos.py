"""BEiT on the embedded photographs, with the tokenizer of configs/dvae_photos.py.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py; patches and tokens of 4 px
Numbers:   docs/results.md; over three seeds (24 November 2026) 34, 35, 37 % of the
           masked tokens are told, of which the most frequent one has 5, 7 and 9 % (masked_top1 and
           top_token_share, mean of the last ten lines)
Hardware:  2 CPU cores
Command:   jssl train --config=configs/beit_photos.py --workdir=runs/beit_photos
           after jssl train --config=configs/dvae_photos.py --workdir=runs/dvae_photos
Switches:  smoke (a run of seconds, tokenizer not trained), tokenizer=WORKDIR, epochs=N, seed=N
"""

from bases.photos import on_photos

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, tokenizer="runs/dvae_photos", epochs=20.0, seed=0)
    c = config.base("beit", preset="small")
    on_photos(c, s, batch_size=32)
    c.beit.tokenizer = s.tokenizer
    c.augment.options.scale = (0.4, 1.0)
    c.log.every_steps = 50
    c.checkpoint.every_steps = 500
    c.monitor.every_epochs = 5.0
    if s.smoke:
        config.smoke(c)
        c.model.width = 0.125
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
        c.augment.options.jitter_p = 0.0  # half of the time to compile
        tokenizer = {"tokenizer": "random", "vocabulary": 16, "hidden": 4, "groups": 2, "blocks": 1}
        config.apply(c, {"beit": {**tokenizer, "masked": 6, "min_block": 2}})
    return c
