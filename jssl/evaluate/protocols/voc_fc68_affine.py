"""`--protocol=voc_fc68_affine`: as voc_fc68, with scale and bias of the BN trained (72.0)."""

from jssl.evaluate.protocols import voc

PROTOCOL = voc.finetuned("voc_fc68_affine")
