"""Loss functions: pure functions of arrays, one file for each family."""

from jssl.losses.classification import cross_entropy as cross_entropy
from jssl.losses.classification import top_k_correct as top_k_correct
from jssl.losses.cmc import in_batch_scores as in_batch_scores
from jssl.losses.cmc import multiview_scores as multiview_scores
from jssl.losses.cmc import mutual_information_bound as mutual_information_bound
from jssl.losses.cmc import nce as nce
from jssl.losses.cmc import nce_normalizer as nce_normalizer
from jssl.losses.cmc import nce_softmax as nce_softmax
from jssl.losses.cmc import view_pairs as view_pairs
from jssl.losses.contrastive import nt_xent as nt_xent
from jssl.losses.contrastive import nt_xent_with_top1 as nt_xent_with_top1
from jssl.losses.cpc import directions_info_nce as directions_info_nce
from jssl.losses.cpc import patch_info_nce as patch_info_nce
from jssl.losses.cpc import patch_info_nce_with_top1 as patch_info_nce_with_top1
from jssl.losses.cpc import patch_labels as patch_labels
from jssl.losses.distillation import hard_distillation as hard_distillation
from jssl.losses.distillation import soft_distillation as soft_distillation
from jssl.losses.dvae import kl_to_uniform as kl_to_uniform
from jssl.losses.dvae import logit_laplace_nll as logit_laplace_nll
from jssl.losses.dvae import squared_error as squared_error
from jssl.losses.momentum import info_nce as info_nce
from jssl.losses.momentum import info_nce_with_top1 as info_nce_with_top1
from jssl.losses.momentum import symmetric_info_nce as symmetric_info_nce
from jssl.losses.momentum import symmetric_info_nce_with_top1 as symmetric_info_nce_with_top1
from jssl.losses.prediction import view_prediction as view_prediction
from jssl.losses.prototypes import prototype_cross_entropy as prototype_cross_entropy
from jssl.losses.prototypes import (
    prototype_cross_entropy_with_top1 as prototype_cross_entropy_with_top1,
)
from jssl.losses.regression import normalized_regression as normalized_regression
from jssl.losses.regression import symmetric_regression as symmetric_regression
from jssl.losses.vicreg import variance_invariance_covariance as variance_invariance_covariance

__all__ = [
    "cross_entropy",
    "directions_info_nce",
    "hard_distillation",
    "in_batch_scores",
    "info_nce",
    "info_nce_with_top1",
    "kl_to_uniform",
    "logit_laplace_nll",
    "multiview_scores",
    "mutual_information_bound",
    "nce",
    "nce_normalizer",
    "nce_softmax",
    "normalized_regression",
    "nt_xent",
    "nt_xent_with_top1",
    "patch_info_nce",
    "patch_info_nce_with_top1",
    "patch_labels",
    "prototype_cross_entropy",
    "prototype_cross_entropy_with_top1",
    "soft_distillation",
    "squared_error",
    "symmetric_info_nce",
    "symmetric_info_nce_with_top1",
    "symmetric_regression",
    "top_k_correct",
    "variance_invariance_covariance",
    "view_pairs",
    "view_prediction",
]
