"""`--protocol=imagenet_v2`: top-1 on ImageNet-V2, matched frequency."""

from jssl.evaluate.protocols import imagenet_variants

PROTOCOL = imagenet_variants.protocol("imagenet_v2", imagenet_variants.subset)
