"""`--protocol=imagenet_r`: top-1 on ImageNet-R, among its 200 classes."""

from jssl.evaluate.protocols import imagenet_variants

PROTOCOL = imagenet_variants.protocol("imagenet_r", imagenet_variants.subset)
