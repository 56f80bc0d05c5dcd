"""Makes training and test batches of pictures with boxes and masks, all of one size."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jssl.data.decode import RESAMPLING, PictureError
from jssl.data.dense_files import MAX_OBJECTS
from jssl.errors import UserError
from jssl.metrics.detection import IGNORED

MOCO_SIDES = tuple(range(480, 801, 32))  # 11 values
MOCO_LONGEST = 1333

Example = Mapping[str, Any]
_BOXES = {"boxes", "proposals"}


class Transform(Protocol):
    """Makes arrays of fixed shapes of an example; `rng` is unused where nothing is random."""

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]: ...


def flip(example: Example) -> dict[str, Any]:
    """Mirrors picture, boxes, proposals and mask: a box from x1 to x2 goes from W - x2 to W - x1.

    Example:
        >>> picture = np.zeros((4, 10, 3), np.uint8)
        >>> flip({'image': picture, 'boxes': np.array([[0, 1, 3, 4]])})['boxes'].tolist()
        [[7, 1, 10, 4]]
    """
    image = example["image"]
    mirrored = {"image": image[:, ::-1]}
    for key in _BOXES & example.keys():
        boxes = np.array(example[key])
        boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
        mirrored[key] = boxes
    if "mask" in example:
        mirrored["mask"] = example["mask"][:, ::-1]
    return {**example, **mirrored}


def resize(example: Example, height: int, width: int) -> dict[str, Any]:
    """Resizes the picture (bilinear, antialiased), boxes, proposals, and the mask (nearest).

    Args:
        example: of a `jssl.data.dense_folder.DenseSource`, decoded.
        height, width: of the result, in pixels.
    """
    old_height, old_width = example["image"].shape[:2]
    scale = np.array([width / old_width, height / old_height] * 2)
    resized = {"image": _resized(example["image"], height, width, "bilinear")}
    for key in _BOXES & example.keys():
        resized[key] = (example[key] * scale).astype(np.float32)
    if "mask" in example:
        resized["mask"] = _resized(example["mask"], height, width, "nearest")
    return {**example, **resized}


def shorter_side(height: int, width: int, side: int, longest: int) -> tuple[int, int]:
    """Returns height and width with a given shorter side, or less where the longer is too long.

    Example:
        >>> shorter_side(375, 500, 600, 1333), shorter_side(100, 500, 600, 1333)
        ((600, 800), (267, 1333))

    Reference: https://github.com/facebookresearch/detectron2, ResizeShortestEdge.
    """
    scale = min(side / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class DetectionTransform:
    """Flips, resizes to a shorter side, and pads on the right and below to a canvas.

    Args:
        sides: shorter sides in pixels, of which each picture gets one at random.
        longest: longest side.
        canvas: (H, W) of the batch.
        flips: whether half of the pictures are mirrored.
        difficult: whether difficult objects are in the batch, see `DenseSource.train_difficult`.
        most_proposals: number to which the proposals of a picture are padded.

    Raises:
        UserError: a number below 1, or a canvas smaller than the sides.

    Example:
        train = DetectionTransform(MOCO_SIDES, longest=1333, canvas=(1333, 1333))
        test = DetectionTransform.test(800, longest=1333, canvas=(1333, 1333))

    Reference: He et al., MoCo, https://arxiv.org/abs/1911.05722, appendix A.
    """

    def __init__(
        self,
        sides: Sequence[int],
        *,
        longest: int,
        canvas: tuple[int, int],
        flips: bool = True,
        difficult: bool = True,
        most_proposals: int = 0,
    ):
        if not sides or min(*sides, longest, *canvas) < 1:
            raise UserError(
                f"Found sides={list(sides)}, longest={longest}, canvas={canvas}: expected one side "
                "or more, and numbers of pixels of at least 1."
            )
        largest = min(max(sides), longest)
        if min(canvas) < largest or max(canvas) < largest:
            raise UserError(
                f"A canvas of {canvas[0]} x {canvas[1]} pixels (height x width) does not hold a "
                f"shorter side of {largest}: expected at least {largest} each."
            )
        self.sides, self.longest, self.canvas = tuple(sides), longest, (canvas[0], canvas[1])
        self.flips, self.difficult = flips, difficult
        self.most_proposals = most_proposals

    @classmethod
    def test(
        cls, side: int, *, longest: int, canvas: tuple[int, int], most_proposals: int = 0
    ) -> "DetectionTransform":
        """Returns a transform without randomness."""
        return cls(
            (side,), longest=longest, canvas=canvas, flips=False, most_proposals=most_proposals
        )

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms an example.

        Args:
            example: of a `DenseSource`, decoded.
            rng: two numbers are drawn, whatever the options are.

        Returns:
            image: uint8 [H,W,3], the picture at the upper left, zeros beside it.
            size: int32 [2], height and width of the picture.
            original: int32 [2], height and width before the transform.
            boxes: float32 [64,4], (x1, y1, x2, y2) in pixels from 0 of `image`.
            label: int32 [64] in [0, K).
            valid, difficult: bool [64]; False beyond the objects of the picture.
            index: int32 [].
            mask: uint8 [H,W], if the example has one; 255 beside the picture.
            proposals: float32 [P,4], live: bool [P], if the example has proposals.

        Raises:
            PictureError: the picture does not fit into the canvas.
        """
        mirrored, choice = rng.random() < 0.5, int(rng.integers(len(self.sides)))
        height, width = example["image"].shape[:2]
        size = shorter_side(height, width, self.sides[choice], self.longest)
        if size[0] > self.canvas[0] or size[1] > self.canvas[1]:
            raise PictureError(
                f"Picture {int(example['index'])} has {size[0]} x {size[1]} pixels (height x "
                f"width) after its resize: expected at most the canvas, {self.canvas[0]} x "
                f"{self.canvas[1]}. Give a larger one."
            )
        if self.flips and mirrored:
            example = flip(example)
        resized = resize(example, *size)
        result: dict[str, np.ndarray] = {
            "image": pad(resized["image"], self.canvas, 0),
            "size": np.array(size, np.int32),
            "original": np.array([height, width], np.int32),
            "index": np.array(example["index"], np.int32),
            **self._objects(resized),
        }
        if "mask" in resized:
            result["mask"] = pad(resized["mask"], self.canvas, IGNORED)
        if "proposals" in resized:
            result |= padded_proposals(resized["proposals"], self.most_proposals)
        return result

    def _objects(self, example: Example) -> dict[str, np.ndarray]:
        kept = np.ones(len(example["label"]), bool) if self.difficult else ~example["difficult"]
        count = int(kept.sum())
        boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
        label, difficult = np.zeros(MAX_OBJECTS, np.int32), np.zeros(MAX_OBJECTS, bool)
        boxes[:count], label[:count] = example["boxes"][kept], example["label"][kept]
        difficult[:count] = example["difficult"][kept]
        valid = np.arange(MAX_OBJECTS) < count
        return {"boxes": boxes, "label": label, "difficult": difficult, "valid": valid}


class SegmentationTransform:
    """Scales at random, crops a square at random, and flips; beside the picture pixels are ignored.

    Args:
        crop: side of the square, in pixels.
        scales: (low, high) of the uniform scale.

    Reference: He et al., MoCo, https://arxiv.org/abs/1911.05722, appendix A.5.
    """

    def __init__(self, crop: int = 513, *, scales: tuple[float, float] = (0.5, 2.0)):
        if crop < 1 or not 0 < scales[0] <= scales[1]:
            raise UserError(
                f"Found crop={crop}, scales={scales}: expected crop >= 1 and 0 < a <= b."
            )
        self.crop, self.scales = crop, scales

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms an example with a mask.

        Returns:
            image: uint8 [crop,crop,3], zeros beside the picture.
            size: int32 [2], height and width of the picture within.
            mask: uint8 [crop,crop], 255 beside the picture.
            index: int32 [].
        """
        scale, mirrored = rng.uniform(*self.scales), rng.random() < 0.5
        places = rng.random(2)
        if mirrored:
            example = flip(example)
        height, width = (max(1, round(side * scale)) for side in example["image"].shape[:2])
        resized = resize(example, height, width)
        top, left = (
            int(place * (max(0, side - self.crop) + 1))
            for place, side in zip(places, (height, width), strict=True)
        )
        part = np.s_[top : top + self.crop, left : left + self.crop]
        canvas, image = (self.crop, self.crop), resized["image"][part]
        return {
            "image": pad(image, canvas, 0),
            "size": np.array(image.shape[:2], np.int32),
            "mask": pad(resized["mask"][part], canvas, IGNORED),
            "index": np.array(example["index"], np.int32),
        }


class WholePicture:
    """Keeps a picture and its mask at their size, padded on the right and below to a square.

    Args:
        side: of the square, in pixels.
        key: of the config that sets it, for messages.
    """

    def __init__(self, side: int, *, key: str = "fcn.test_size"):
        self.side, self.key = side, key

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Pads an example with a mask; see `SegmentationTransform`.

        Raises:
            PictureError: the picture is larger than the square.
        """
        height, width = example["image"].shape[:2]
        if max(height, width) > self.side:
            raise PictureError(
                f"Picture {int(example['index'])} has {height} x {width} pixels (height x width): "
                f"expected at most {self.side} each. Type a larger --config.{self.key}."
            )
        canvas = (self.side, self.side)
        return {
            "image": pad(example["image"], canvas, 0),
            "size": np.array([height, width], np.int32),
            "mask": pad(example["mask"], canvas, IGNORED),
            "index": np.array(example["index"], np.int32),
        }


def padded_proposals(boxes: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Pads boxes [n,4] to `most`: `proposals` float32 [P,4], and `live` bool [P]."""
    padded = np.zeros((most, 4), np.float32)
    padded[: len(boxes)] = boxes
    return {"proposals": padded, "live": np.arange(most) < len(boxes)}


def pad(array: np.ndarray, canvas: tuple[int, int], value: int) -> np.ndarray:
    """Pads [h,w,...] on the right and below to the height and width of the canvas."""
    padded = np.full((*canvas, *array.shape[2:]), value, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def dense_batch(
    source: Any, indices: Sequence[int], transform: Transform, *, seed: int = 0, epoch: int = 0
) -> dict[str, np.ndarray]:
    """Stacks transformed examples, each with a random stream of (seed, epoch, index).

    Args:
        source: a `DenseSource`, or one with the same examples.
        indices: of B examples.
        transform: such as `DetectionTransform`.
        seed, epoch: at least 0.

    Returns:
        The arrays of the transform, [B,...].
    """
    examples = [
        transform(source[index], np.random.default_rng([seed, epoch, int(index)]))
        for index in indices
    ]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _resized(array: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(array))
    return np.asarray(picture.resize((width, height), RESAMPLING[interpolation]))
