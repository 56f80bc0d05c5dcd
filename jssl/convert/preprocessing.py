"""The preprocessing that belongs to published weights: pixels, crop and interpolation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jssl.augment._pixels import OWN, STATISTICS, mean_and_std, statistics_of
from jssl.convert.containers import Weights
from jssl.errors import UserError


def set_preprocessing(config: ConfigDict, weights: Weights, *, normalize: str, crop: float) -> None:
    """Sets how pictures are prepared: as a folder's config.json says, else as the paper does.

    Args:
        config: in place: `augment.normalize`, `augment.mean` and `std`, `augment.size`,
            `data.channels`, `data.eval_crop` and `data.eval_interpolation`.
        weights: of the file; `pretrained_cfg` of timm's config.json is read.
        normalize, crop: of the family, for a file that says nothing.

    Raises:
        UserError: statistics or an interpolation that jssl does not have.
    """
    config.augment.normalize, config.data.eval_crop = normalize, crop
    said: Any = weights.other.get("pretrained_cfg")
    if not isinstance(said, Mapping):
        return
    if "input_size" in said:
        config.data.channels = int(said["input_size"][0])
    if "mean" in said and "std" in said:
        _set_statistics(config, said["mean"], said["std"], weights)
    if "input_size" in said and not config.model.name.startswith("vit"):  # a ViT's positions say it
        config.augment.size = int(said["input_size"][-1])
    if "crop_pct" in said:
        config.data.eval_crop = float(said["crop_pct"])
    interpolation = said.get("interpolation", "bicubic")
    if interpolation not in ("bicubic", "bilinear"):
        raise UserError(
            f"'{weights.path}' wants pictures resized by '{interpolation}': expected bicubic or "
            "bilinear in its config.json."
        )
    config.data.eval_interpolation = interpolation


def _set_statistics(config: ConfigDict, mean: Any, deviation: Any, weights: Weights) -> None:
    """Sets the name of the statistics, or 'own' and their numbers."""
    channels = config.data.channels
    try:
        said = tuple(map(float, mean)), tuple(map(float, deviation))
        own = {"normalize": OWN, "mean": said[0], "std": said[1]}
        statistics_of(own, channels)
    except (TypeError, ValueError):  # a UserError is one too
        raise UserError(
            f"'{weights.path}' was trained on pixels of mean {mean} and deviation {deviation}: "
            f"expected {channels} numbers each, for pixels in [0, 1], in its config.json."
        ) from None
    named = [n for n, (m, _) in STATISTICS.items() if channels == 3 or len(set(m)) == 1]
    for name in named:
        if np.allclose(said, mean_and_std(name, channels), atol=1e-4):
            config.augment.normalize = name
            return
    config.augment.update(own)
