"""Augmentation on the device: functions of one image, for vmap; the key is the first argument."""

from jssl import third_party as third_party  # before anything imports flax
from jssl.augment._blur import blur_radius, gaussian_blur, random_gaussian_blur
from jssl.augment._boxes import Box, sample_box
from jssl.augment._color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    grayscale,
    random_grayscale,
    random_solarize,
    solarize,
)
from jssl.augment._colorspaces import rgb_to_lab, rgb_to_ycbcr
from jssl.augment._geometry import (
    center_crop,
    crop_resize,
    random_flip,
    random_resized_crop,
    resize,
)
from jssl.augment._mix import Mix, cutmix_box, draw_mix, mix_batch, random_erasing
from jssl.augment._patches import (
    augment_patch,
    augment_patches,
    extract_patches,
    patch_grid,
)
from jssl.augment._pixels import (
    denormalize,
    normalize,
    statistics_of,
    to_float,
)
from jssl.augment._policy import auto_augment, rand_augment
from jssl.augment.masking import (
    blockwise_mask,
    exact_mask,
    largest_mask,
    masked_places,
)
from jssl.augment.modalities import batch_modalities, split_views
from jssl.augment.recipes import OPTIONS, RECIPES
from jssl.augment.views import batch_views, make_views

__all__ = [
    "Box",
    "Mix",
    "OPTIONS",
    "RECIPES",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "augment_patch",
    "augment_patches",
    "auto_augment",
    "batch_modalities",
    "batch_views",
    "blockwise_mask",
    "blur_radius",
    "center_crop",
    "color_jitter",
    "crop_resize",
    "cutmix_box",
    "denormalize",
    "draw_mix",
    "exact_mask",
    "extract_patches",
    "gaussian_blur",
    "grayscale",
    "largest_mask",
    "make_views",
    "masked_places",
    "mix_batch",
    "normalize",
    "patch_grid",
    "rand_augment",
    "random_erasing",
    "random_flip",
    "random_gaussian_blur",
    "random_grayscale",
    "random_resized_crop",
    "random_solarize",
    "resize",
    "rgb_to_lab",
    "rgb_to_ycbcr",
    "sample_box",
    "solarize",
    "split_views",
    "statistics_of",
    "to_float",
]
