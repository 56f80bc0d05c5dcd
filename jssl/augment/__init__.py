"""Augmentation on the device: one image at a time under vmap, the key first."""

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
from jssl.augment._geometry import (
    center_crop,
    crop_resize,
    random_flip,
    random_resized_crop,
    resize,
)
from jssl.augment._pixels import normalize, to_float
from jssl.augment.recipes import OPTIONS, RECIPES
from jssl.augment.views import batch_views, make_views

__all__ = [
    "OPTIONS",
    "RECIPES",
    "Box",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "batch_views",
    "blur_radius",
    "center_crop",
    "color_jitter",
    "crop_resize",
    "gaussian_blur",
    "grayscale",
    "make_views",
    "normalize",
    "random_flip",
    "random_gaussian_blur",
    "random_grayscale",
    "random_resized_crop",
    "random_solarize",
    "resize",
    "sample_box",
    "solarize",
    "to_float",
]
