"""`--protocol=voc_detection`: Faster R-CNN on a ResNet, Fast R-CNN on AlexNet or VGG-16."""

from jssl.evaluate.protocols.dense import DETECTION, make_protocol

PROTOCOL = make_protocol(DETECTION)
