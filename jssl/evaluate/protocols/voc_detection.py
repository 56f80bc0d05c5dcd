"""`--protocol=voc_detection`: MoCo's Faster R-CNN on a run's ResNet; see `dense`."""

from jssl.evaluate.protocols.dense import DETECTION, make_protocol

PROTOCOL = make_protocol(DETECTION)
