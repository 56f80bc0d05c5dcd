"""`--protocol=cifar10_c`: the mean error over the 15 corruptions of CIFAR-10-C."""

from jssl.evaluate.protocols import imagenet_variants

PROTOCOL = imagenet_variants.protocol("cifar10_c", imagenet_variants.cifar10_c)
