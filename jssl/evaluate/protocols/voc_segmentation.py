"""`--protocol=voc_segmentation`: MoCo's dilated FCN on a run's ResNet; see `dense`."""

from jssl.evaluate.protocols.dense import SEGMENTATION, make_protocol

PROTOCOL = make_protocol(SEGMENTATION)
