"""BEiT's pre-training on ImageNet-1k: ViT-B/16, 800 epochs, tokens of a discrete VAE.

Paper:     Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, table 1
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    ImageNet top-1 after fine-tuning at 224 px: base 83.2 (lecture and paper). The official
           log has loss 6.299 and masked top-1 .0496 after 300 epochs. Pre-trained on ImageNet-22k:
           base 83.7, large 86.0. Not run here.
           The tokenizer is one trained here (configs/dvae_imagenet.py), not OpenAI's. Adam's
           second beta is the code's .999.
Hardware:  batch 2048 on 16 GPUs with 32 GB (paper)
Command:   jssl train --config=configs/beit_imagenet.py --workdir=/mnt/BUCKET/beit --distributed
Switches:  smoke, tokenizer=WORKDIR, model=vit_tiny|vit_small|vit_base|vit_large, epochs=N, batch=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, tokenizer="runs/dvae_imagenet", model="vit_base", epochs=800.0, batch=2048
    )
    c = config.base("beit", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = s.model
    if s.model == "vit_large":
        c.model.layer_scale = 1e-5
    c.beit.tokenizer = s.tokenizer
    c.dtype = "bfloat16"
    if s.smoke:
        config.smoke(c)
        c.model.heads = 2
        c.optim.warmup_epochs = 0.0
        c.augment.options.jitter_p = 0.0  # half of the time to compile
        tokenizer = {"tokenizer": "random", "vocabulary": 16, "hidden": 4, "groups": 2, "blocks": 1}
        config.apply(c, {"beit": {**tokenizer, "masked": 6, "min_block": 2}})
    return c
