"""Losses: pure functions of arrays, a file a family. This is the public list."""

from jssl.losses.classification import cross_entropy as cross_entropy
from jssl.losses.classification import top_k_correct as top_k_correct
from jssl.losses.contrastive import nt_xent as nt_xent
from jssl.losses.contrastive import nt_xent_with_top1 as nt_xent_with_top1

__all__ = ["cross_entropy", "nt_xent", "nt_xent_with_top1", "top_k_correct"]
