"""`--protocol=voc_fc68`: VOC 2007 classification, fc6 to fc8 initialised anew and trained."""

from jssl.evaluate.protocols import voc

PROTOCOL = voc.finetuned("voc_fc68")
