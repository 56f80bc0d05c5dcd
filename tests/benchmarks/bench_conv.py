"""Times a SimCLR step on the CPU with jssl's convolution against the same with flax's nn.Conv.

    python tests/benchmarks/bench_conv.py [--rounds 7] [--width 1.0]
        [--record docs/benchmarks/conv.json]

ResNet-18 with the CIFAR stem, 32 px, batch 32 (64 views), forward, NT-Xent and gradients; both are
compiled first and timed in turn, in one process.
"""

import argparse
from pathlib import Path

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import turns

from jssl import losses, models
from jssl.models import resnet
from jssl.models.heads import Projector


class StockConv(nn.Module):
    """flax's convolution behind the interface of jssl's."""

    features: int
    kernel_size: tuple[int, int]
    strides: int
    padding: object
    kernel_init: object
    dtype: object
    dilation: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.dilation,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )(x)


def gradient_of(conv, width, images):
    resnet.Conv = conv
    net = models.build({"name": "resnet18", "stem": "cifar", "shortcut": "always", "width": width})
    head = Projector((0,), 128)
    key = jax.random.key(0)
    net_variables = net.init(key, images, train=True)
    features = jnp.zeros((len(images), round(512 * width)))
    head_variables = head.init(key, features, train=True)
    half = len(images) // 2

    def loss(params):
        net_params, head_params = params
        (h, _), net_stats = net.apply(
            {**net_variables, "params": net_params}, images, train=True, mutable=["batch_stats"]
        )
        z, head_stats = head.apply(
            {**head_variables, "params": head_params}, h, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(losses.nt_xent(z[:half], z[half:], temperature=0.5)), (
            net_stats,
            head_stats,
        )

    params = (net_variables["params"], head_variables["params"])
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    jax.block_until_ready(step(params))
    return lambda: jax.block_until_ready(step(params))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    images = jax.random.normal(jax.random.key(1), (64, 32, 32, 3))
    own = resnet.Conv
    stock = gradient_of(StockConv, args.width, images)
    mine = gradient_of(own, args.width, images)
    seconds = turns.in_turn(mine, turns.Here(stock), rounds=args.rounds)
    work = "SimCLR step, ResNet-18, forward and backward"
    packages = {"jax": jax.__version__, "flax": flax.__version__}
    row = {"peer": "flax's nn.Conv", "seconds": seconds, "versions": packages}
    turns.show(work, row)
    if args.record:
        turns.write(args.record, work, row)


if __name__ == "__main__":
    main()
