"""Records what torchvision's crops give, for tests/data/test_crop.py.

Run once, in an environment with torch, torchvision and scikit-learn:
    python tests/reference/record_host_crop.py
"""

from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
import torchvision
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

OUT = Path(__file__).parents[1] / "golden" / "host_crop_torchvision.npz"
RATIO = (3 / 4, 4 / 3)
DRAWS = 40_000
QUANTILES = np.linspace(0.05, 0.95, 19)
SHAPES = [(375, 500), (500, 333), (32, 32), (60, 400)]
BOXES = [(10, 20, 300, 400), (100, 333, 47, 61), (0, 0, 427, 640), (5, 7, 30, 20)]


def sample(height, width, area):
    image = torch.empty(3, height, width)
    return RandomResizedCrop.get_params(image, area, RATIO)


def main():
    torch.manual_seed(0)
    arrays = {}
    for height, width in SHAPES:
        boxes = np.array([sample(height, width, (0.08, 1.0)) for _ in range(DRAWS)])
        arrays[f"quantiles_{height}_{width}"] = np.quantile(boxes, QUANTILES, axis=0)
        arrays[f"mean_{height}_{width}"] = boxes.mean(axis=0)
    # Nothing of the whole area fits: the centred box of last resort.
    for height, width in [(10, 1000), (1000, 10), (33, 200)]:
        arrays[f"last_{height}_{width}"] = np.array(sample(height, width, (1.0, 1.0)))
    path = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    image = Image.open(path).convert("RGB")
    for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
        crops = [np.asarray(F.resized_crop(image, *box, [40, 40], mode)) for box in BOXES]
        arrays[f"crops_{mode.value}"] = np.stack(crops)
        centre = CenterCrop(56)(Resize(64, mode)(image))
        arrays[f"centre_{mode.value}"] = np.asarray(centre)
        upright = CenterCrop(40)(Resize(40, mode)(image.transpose(Image.Transpose.ROTATE_90)))
        arrays[f"upright_{mode.value}"] = np.asarray(upright)
    np.savez_compressed(OUT, boxes=np.array(BOXES), quantiles=QUANTILES, **arrays)
    print(OUT, torch.__version__, torchvision.__version__)


if __name__ == "__main__":
    main()
