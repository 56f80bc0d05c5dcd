"""Settings of the runs on `photos`: small networks, minutes on two CPU cores, no download."""

from jssl import config


def on_photos(c, s, batch_size):
    """Sets the data and the length of the run; `s` has the switches `epochs` and `seed`."""
    c.seed = s.seed
    c.epochs = s.epochs
    c.batch_size = batch_size
    c.data.name = "photos"
    c.log.every_steps = 20
    c.checkpoint.every_steps = 100


def small_resnet(c, s):
    """Sets the data, a small ResNet and AdamW; `s` has the switch `size` too."""
    on_photos(c, s, batch_size=32)
    c.data.tile = s.size
    c.augment.size = s.size
    c.model.name = "resnet8"  # three groups: on tiles of 32 px a fourth only blurs
    c.model.width = 0.5  # 32, 64, 128 channels
    # Some hundred small batches: Adam gets further in them than LARS or SGD, which are for
    # thousands.
    settings = {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 1e-4,
                "warmup_epochs": 0.5}  # fmt: skip
    config.apply(c, {"optim": settings})
