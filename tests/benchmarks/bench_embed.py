"""Times features of images from jssl and from PyTorch in turn, and records both.

    python tests/benchmarks/bench_embed.py --peer-python PYTHON --record docs/benchmarks/embed.json
    python tests/benchmarks/bench_embed.py --profile "ViT-B/16"

PYTHON has torch, torchvision and timm, which are no dependencies. Both sides compute the features
of 16 images of 224 px in float32 in evaluation mode: of torchvision's ResNet-50, and of timm's
ViT-B/16, without classifiers. The peer's layout is channels_last, in inference_mode. Weights are
random; the time does not depend on them. `--profile` prints what jssl's time is spent on, by kind
of operation, from XLA's own trace: over all threads, so that the sum may be above the time of a
run.
"""

import functools
import sys

import turns

BATCH, SIDE = 16, 224


def features_of_jssl(name):
    """A compiled forward pass, and the text of its program."""
    import jax

    from jssl import models

    net = models.build({"name": name})
    images = jax.random.normal(jax.random.key(0), (BATCH, SIDE, SIDE, 3))
    variables = jax.jit(lambda: net.init(jax.random.key(1), images[:1], train=False))()

    def features(variables, images):
        return net.apply(variables, images, train=False)[0]

    compiled = jax.jit(features).lower(variables, images).compile()
    return lambda: jax.block_until_ready(compiled(variables, images)), compiled.as_text()


def run_of(net):
    """The peer's run of a network without its classifier."""
    import torch

    net = net.eval().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            net(images)

    return run


def torchvision_resnet50():
    import torch
    from torchvision.models import resnet50

    net = resnet50(weights=None)
    net.fc = torch.nn.Identity()
    return run_of(net)


def timm_vit_base():
    import timm

    return run_of(timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0))


NETS = {"ResNet-50": ("resnet50", torchvision_resnet50), "ViT-B/16": ("vit_base", timm_vit_base)}


def show_profile(name):
    """Prints the milliseconds of a run by kind of operation, the longest first."""
    from bench_vit import profile

    run, text = features_of_jssl(NETS[name][0])
    run()
    total, longest = profile(run, text)
    for kind, ms in total.most_common(20):
        print(f"{ms:8.1f} ms  {kind}")
    print("longest instructions:", ", ".join(f"{n} {ms:.1f}" for n, ms in longest.most_common(12)))


def works():
    """Every row: its name to the makers of both sides."""
    return {
        name: (functools.partial(lambda net: features_of_jssl(net)[0], net), peer)
        for name, (net, peer) in NETS.items()
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--profile"]:
        show_profile(sys.argv[2])
        sys.exit()
    turns.command(
        __doc__,
        __file__,
        works(),
        peer="torchvision, timm",
        packages=("torch", "torchvision", "timm"),
    )
