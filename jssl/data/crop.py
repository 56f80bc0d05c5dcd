"""Crops on the host: the box is drawn from the size in the header, before decoding.

Transforms are `transform(example, rng) -> example`: `rng` is a numpy Generator keyed by (seed,
epoch, example index), or None for a deterministic transform. `example['image']` is encoded
(`Picture`) or pixels uint8 [H,W,3].
"""

import dataclasses
from typing import Any

import numpy as np

from jssl.data.decode import Box, Picture, resize_boxes
from jssl.errors import UserError, nearest

Example = dict[str, Any]


def torchvision_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draws the box of torchvision's `RandomResizedCrop`: uniform area, log-uniform ratio.

    If none of ten draws fits, the largest centred box whose ratio is within the limits.

    Args:
        rng: random number generator.
        height, width: of the picture in pixels.
        area: smallest and largest share of the picture's area.
        ratio: smallest and largest width / height.

    Returns:
        (top, left, height, width), whole pixels.

    Example:
        >>> torchvision_box(np.random.default_rng(0), 10, 1000, area=(1.0, 1.0))
        (0, 493, 10, 13)

    Reference: Inception-style crops as in torchvision.transforms.RandomResizedCrop.get_params.
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w = round(float(np.sqrt(target * aspect)))
        h = round(float(np.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def tf_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    min_covered: float = 0.1,
    attempts: int = 100,
) -> Box:
    """Draws the box of TensorFlow's `sample_distorted_bounding_box`.

    Uniform ratio and, between the limits of the area, uniform HEIGHT (not area); a box that
    covers less than `min_covered` of the picture is drawn again, so that with the values of SimCLR
    and BYOL no crop is below a tenth of the picture. The whole picture if every attempt fails.

    Args:
        rng: random number generator.
        height, width: of the picture in pixels.
        area: smallest and largest share of the picture's area.
        ratio: smallest and largest width / height.
        min_covered: smallest share of the picture that a box must cover.
        attempts: number of draws before the whole picture is taken.

    Returns:
        (top, left, height, width), whole pixels.

    Example:
        >>> tf_box(np.random.default_rng(0), 40, 40, area=(1.0, 1.0), ratio=(1.0, 1.0))
        (0, 0, 40, 40)

    Reference: tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc; the values are
        those of `distorted_bounding_box_crop` in SimCLR's data_util.py.
    """
    smallest, largest = area[0] * height * width, area[1] * height * width
    for _ in range(attempts):
        aspect = rng.uniform(*ratio)
        low = round(float(np.sqrt(smallest / aspect)))
        high = min(round(float(np.sqrt(largest / aspect))), height)
        while round(high * aspect) > width:
            high -= 1
        h = int(rng.integers(low, high + 1)) if low < high else high
        w = round(h * aspect)
        # Rounding may have left the limits by one row.
        if w * h < smallest:
            h, w = h + 1, round((h + 1) * aspect)
        if w * h > largest:
            h, w = h - 1, round((h - 1) * aspect)
        fits = smallest <= w * h <= largest and 0 < h <= height and 0 < w <= width
        # TensorFlow draws the corner from [0, size - side), which leaves out the last place.
        top = int(rng.integers(0, height - h)) if h < height else 0
        left = int(rng.integers(0, width - w)) if w < width else 0
        if fits and w * h >= min_covered * height * width:
            return top, left, h, w
    return 0, 0, height, width


SAMPLERS = {"torchvision": torchvision_box, "tf": tf_box}
# Resize filter of the official pipelines of each style.
INTERPOLATION = {"torchvision": "bilinear", "tf": "bicubic"}


@dataclasses.dataclass(frozen=True)
class HostCrop:
    """Transform to V random resized crops: image uint8 [V,size,size,3].

    Attributes:
        size: side of a crop in pixels.
        views: number V of crops of each picture; all come from one decode.
        sampler: 'torchvision' or 'tf'.
        area: smallest and largest share of the picture's area.
        ratio: smallest and largest width / height of the box.
        interpolation: 'bilinear' or 'bicubic'; '' for the sampler's default.
    """

    size: int
    views: int = 2
    sampler: str = "torchvision"
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = ""

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise UserError(
                f"Unknown host crop '{self.sampler}': {nearest(self.sampler, SAMPLERS)}. "
                "Type for example --config.data.host_crop=tf, or device."
            )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        encoded = isinstance(image, Picture)
        height, width = image.size() if encoded else image.shape[:2]
        sample = SAMPLERS[self.sampler]
        boxes = [
            sample(rng, height, width, area=self.area, ratio=self.ratio) for _ in range(self.views)
        ]
        cut = image.crops if encoded else lambda *a, **k: resize_boxes(image, *a, **k)
        interpolation = self.interpolation or INTERPOLATION[self.sampler]
        return {**example, "image": cut(boxes, (self.size,) * 2, interpolation=interpolation)}


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Transform to one square: short side to `resize`, then the central `size` x `size` pixels.

    The evaluation protocol of ImageNet is resize 256, size 224. With `resize` equal to `size` it is
    the largest central square. Equal to torchvision's Resize and CenterCrop to one grey level;
    always decoded at full resolution.

    Attributes:
        size: side of the result in pixels.
        resize: length of the short side after the resize; at least `size`.
        interpolation: 'bilinear' or 'bicubic'.
    """

    size: int
    resize: int
    interpolation: str = "bicubic"

    def __call__(self, example: Example, rng: np.random.Generator | None = None) -> Example:
        image = example["image"]
        pixels = image.pixels() if isinstance(image, Picture) else image
        height, width = pixels.shape[:2]
        short = min(height, width)
        rows, columns = self.resize * height // short, self.resize * width // short
        y, x = height / rows, width / columns  # source pixels per resized pixel
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        box = (top * y, left * x, self.size * y, self.size * x)
        crops = resize_boxes(
            pixels, [box], (self.size,) * 2, interpolation=self.interpolation, inside=False
        )
        return {**example, "image": crops[0]}
