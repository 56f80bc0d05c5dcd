"""`--protocol=imagenet_c`: mCE over the 15 corruptions of ImageNet-C."""

from jssl.evaluate.protocols import imagenet_variants

PROTOCOL = imagenet_variants.protocol("imagenet_c", imagenet_variants.imagenet_c)
