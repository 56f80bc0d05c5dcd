"""VGG-16 with batch normalisation, as DeepCluster trains it.

Simonyan and Zisserman, ICLR 2015, https://arxiv.org/abs/1409.1556, configuration D, as in
https://github.com/facebookresearch/deepcluster, models/vgg16.py, see `plain`.
"""

from typing import Any

from jssl.models.plain import Layer, PlainNet

# channels of the convolutions between two max-pools
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def make_vgg16(**switches: Any) -> PlainNet:
    """VGG-16 with BN: 13 convolutions 3x3, a 2x2 max-pool after each group, two dense layers.

    Args:
        **switches: attributes of `PlainNet`.

    Example:
        >>> len(make_vgg16().layers)
        13
    """
    layers = tuple(
        Layer(features, 3, 1, 1, pooled=i + 1 == len(group))
        for group in _GROUPS
        for i, features in enumerate(group)
    )
    return PlainNet(layers, pool=2, dropout_first=False, **switches)
