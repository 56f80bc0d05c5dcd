"""`--protocol=voc_segmentation`: dilated FCN on a ResNet, FCN-32s on AlexNet."""

from jssl.evaluate.protocols.dense import SEGMENTATION, make_protocol

PROTOCOL = make_protocol(SEGMENTATION)
