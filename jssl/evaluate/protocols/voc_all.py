"""`--protocol=voc_all`: VOC 2007 classification, the whole network fine-tuned."""

from jssl.evaluate.protocols import voc

PROTOCOL = voc.finetuned("voc_all")
