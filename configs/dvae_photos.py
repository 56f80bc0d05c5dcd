"""A small tokenizer on the embedded photographs: minutes on two CPU cores, no download.

Paper:     Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092
Data:      `photos`, 32 px tiles, see jssl/data/photos.py; 8 x 8 tokens of 4 x 4 pixels, 512 codes
Numbers:   the log says reconstruction_mse_ratio: mean squared error on the test tiles over that
           of the best constant colour of every 4 x 4 patch; pictures/ shows reconstructions. Seed 0
           ends at 0.91, perplexity 179 of the 512 codes, after 4.4 minutes (24 November 2026).
           k-means of the train tiles' patches with 512 centres, each patch by itself: 0.61.
Hardware:  2 CPU cores
Command:   jssl train --config=configs/dvae_photos.py --workdir=runs/dvae_photos
Switches:  smoke (a run of seconds), epochs=N, seed=N
"""

from bases.photos import on_photos

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=20.0, seed=0)
    c = config.base("dvae", preset="small")
    on_photos(c, s, batch_size=32)
    c.augment.options.scale = (0.5, 1.0)
    c.log.every_steps = 50
    c.checkpoint.every_steps = 200
    c.monitor.every_epochs = 5.0
    c.monitor.max_examples = 1000
    c.final.enabled = False  # a tokenizer is judged by what it reconstructs
    if s.smoke:
        config.smoke(c)
        config.apply(c, {"dvae": {"vocabulary": 32, "hidden": 8, "initial": 8, "groups": 2}})
    return c
