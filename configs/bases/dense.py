"""Settings of detection and segmentation on cut-outs of the embedded photographs."""

from jssl import config
from jssl.run import pretrained

ALEXNET = {"name": "alexnet", "stage_sizes": (), "width": 1 / 32}


def small_dense(c, s, net=None):
    """Sets the data and the length; `s` has the switches `smoke`, `epochs`, `seed` and `init`.

    A run of seconds has `net`, where it is not the usual residual network.
    """
    c.seed = s.seed
    # The rate falls at the same shares of the run, whatever its length.
    c.optim.boundaries = tuple(b * s.epochs / c.epochs for b in c.optim.boundaries)
    c.optim.warmup_epochs *= min(1.0, s.epochs / c.epochs)
    c.epochs = s.epochs
    c.data.name = "cutouts"
    c.checkpoint.every_steps = 100
    if s.smoke:
        config.smoke(c)
        updates = {"augment": {"size": 64}, "data": {"image_size": 64}, "batch_size": 8,
                   "model": net or {"width": 0.125}, "monitor": {"every_epochs": 0.0}}  # fmt: skip
        config.apply(c, updates)
    if s.init:
        c.init_from = s.init
        pretrained.as_trained(c, s.init)
