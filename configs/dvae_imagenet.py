"""OpenAI's discrete VAE of DALL-E at its size, on ImageNet-1k: the tokenizer of BEiT.

Paper:     Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, appendix A.2
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives);
           the paper's are 250 million pictures of the internet
Target:    the paper gives no number for its reconstructions; perplexity of the 8,192 codes far
           above 1. The paper's 3,000,000 updates are 1,200 epochs of ImageNet; its learning rate
           goes from 1e-4 to 1.25e-6 in 1,200,000, here along a cosine over all. Not run here.
Hardware:  batch 512 on 64 GPUs with 16 GB (paper)
Command:   jssl train --config=configs/dvae_imagenet.py --workdir=/mnt/BUCKET/dvae --distributed
Switches:  smoke, epochs=N, batch=N, likelihood=logit_laplace|squared_error
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, epochs=1200.0, batch=512, likelihood="logit_laplace")
    c = config.base("dvae", preset="imagenet")
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.dvae.likelihood = s.likelihood
    c.dtype = "bfloat16"
    c.final.enabled = False
    if s.smoke:
        config.smoke(c)
        config.apply(c, {"dvae": {"vocabulary": 32, "hidden": 8, "initial": 8}})
    return c
