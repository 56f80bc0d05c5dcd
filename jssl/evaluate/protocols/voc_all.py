"""`--protocol=voc_all`: VOC 2007 classification, fine-tuning all layers."""

from jssl.evaluate.protocols import voc

PROTOCOL = voc.finetuned("voc_all")
