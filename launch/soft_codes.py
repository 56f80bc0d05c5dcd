r"""What a dVAE's decoder makes of the most probable codes, and of the probabilities of all codes.

The record is a line below the table of the dVAE in docs/ablations.md.

    python launch/soft_codes.py --workdir=runs/dvae_photos \
        --output=configs/results/dvae_soft_codes.json
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jssl
from jssl import files
from jssl.data import photos
from jssl.evaluate import constant_patch_error
from jssl.methods.dvae import make_net
from jssl.models.dvae import unmap_pixels
from jssl.run import versions, workdir

BATCH = 100


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    config = workdir.read_config(given.workdir)
    _, state = jssl.load_encoder(given.workdir)
    net = make_net(config, None)

    @jax.jit
    def decoded(params, images):
        """Pixels from the most probable code of each place, and from all probabilities."""
        logits, _ = net.apply({"params": params}, images, method="encode")
        hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
        outs = [
            net.apply({"params": params}, z, method=lambda net, z: net.decoder(z))
            for z in (hard, jax.nn.softmax(logits))
        ]
        return [unmap_pixels(jax.nn.sigmoid(out[..., :3])) for out in outs]

    images, _ = photos.load("test")
    images = images.astype(np.float32) / 255
    constant = constant_patch_error(images, patch=2 ** (config.dvae.groups - 1))
    errors = np.zeros(2)
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        for i, pixels in enumerate(decoded(state.params, part)):
            errors[i] += np.sum((np.asarray(pixels) - part) ** 2)
    hard, soft = (round(float(error) / images.size / constant, 4) for error in errors)
    record = {"most_probable": hard, "probabilities": soft,
              "tiles": len(images), "versions": versions.collect()}  # fmt: skip
    files.write_json(given.output, record)
    print(record)


if __name__ == "__main__":
    main()
