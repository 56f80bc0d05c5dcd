"""`--protocol=imagenet_a`: top-1 on ImageNet-A, among its 200 classes."""

from jssl.evaluate.protocols import imagenet_variants

PROTOCOL = imagenet_variants.protocol("imagenet_a", imagenet_variants.subset)
