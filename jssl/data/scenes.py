"""Pictures with further arrays: synthetic ones for tests, and a user's own from .npz files.

`jssl.augment.modalities.VIEWS` lists the arrays.
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data import plain_npy
from jssl.data.channels import need_range, other_channels, scaled
from jssl.data.classes import check_same, normalized
from jssl.data.decode import Picture
from jssl.data.plain_npz import read_npz
from jssl.data.sources import ArraySource, Example, check_split
from jssl.errors import UserError

SEGMENTS = 4  # labels of 'synthetic_scenes'
FLOW_FRAMES = 10  # fields of flow of 'synthetic_video'
MAX_CLASSES = 1_000_000  # a larger label is a mistake: no such classifier fits in memory


class SceneSource(ArraySource):
    """Examples in memory with further arrays besides the picture.

    Example:
        >>> depth = {'depth': np.ones((2, 4, 4, 1), np.float32)}
        >>> images = np.zeros((2, 4, 4, 3), np.uint8)
        >>> source = SceneSource('mine', images, [0, 1], num_classes=2, arrays=depth)
        >>> sorted(source[1]), source[1]['depth'].shape
        (['depth', 'image', 'index', 'label'], (4, 4, 1))
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Any,
        *,
        num_classes: int,
        arrays: Mapping[str, np.ndarray],
        class_names: tuple[str, ...] | None = None,
    ):
        super().__init__(name, images, labels, num_classes=num_classes, class_names=class_names)
        for key, array in arrays.items():
            if array.shape[:3] != images.shape[:3]:
                raise UserError(
                    f"Array '{key}' of data set '{name}' is {list(array.shape)}: expected "
                    f"{list(images.shape[:3])} and then its channels, as the pictures."
                )
        self.arrays = dict(arrays)

    def __getitem__(self, index: int) -> Example:
        extra = {key: array[index] for key, array in self.arrays.items()}
        return {**super().__getitem__(index), **extra}

    def fingerprint(self) -> str:
        """Returns a hash of the pictures, labels and arrays."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for key in sorted(self.arrays):
            digest.update(f"{key} {self.arrays[key].dtype} {self.arrays[key].shape}".encode())
            digest.update(np.ascontiguousarray(self.arrays[key]).data)
        return digest.hexdigest()[:16]


def synthetic_scenes(split: str, *, size: int = 32, num_examples: int = 1024) -> SceneSource:
    """Returns corrugated walls: pictures with depth, surface normals and semantic labels.

    The depth is a sine wave whose direction is the class, one of ten; the picture shows it in
    random colours with noise; the label of a pixel is the quarter of the wave's height. Depth is
    float32 [M,H,W,1] in metres, normals [M,H,W,3], labels int32 [M,H,W].

    Args:
        split: 'train' or 'test'.
        size: side of the pictures in pixels.
        num_examples: of the train split; the test split has a quarter.

    Example:
        >>> sorted(synthetic_scenes('test', size=8, num_examples=40).arrays)
        ['depth', 'normals', 'segmentation']
    """
    rng, labels, wave, slope = _waves("synthetic_scenes", split, size, num_examples)
    height, (dx, dy) = wave(0.0), slope
    depth = (2 + rng.uniform(0, 4, (len(labels), 1, 1)) + 0.5 * height)[..., None]
    # The normal of z = d + h(x, y), seen along z, is (h_x, h_y, -1), towards the camera; `up` is
    # against the rows.
    normals = np.stack([dx, -dy, np.ones_like(dx)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    quarter = np.clip(np.floor((height + 1) * (SEGMENTS / 2)), 0, SEGMENTS - 1)
    arrays = {
        "depth": depth.astype(np.float32),
        "normals": normals.astype(np.float32),
        "segmentation": quarter.astype(np.int32),
    }
    images = _paint(rng, height)
    return SceneSource("synthetic_scenes", images, labels, num_classes=10, arrays=arrays)


def synthetic_video(split: str, *, size: int = 32, num_examples: int = 1024) -> SceneSource:
    """Returns moving stripes: a frame, a later frame, and the flow of ten frames around it.

    The direction is the class, one of ten; the speed is random. 'later' is uint8 [M,H,W,3];
    'flow' float32 [M,H,W,20], alternating pixels right and down.

    Args:
        split: 'train' or 'test'.
        size: side of the pictures in pixels.
        num_examples: of the train split; the test split has a quarter.

    Example:
        >>> synthetic_video('test', size=8, num_examples=40).arrays['flow'].shape
        (10, 8, 8, 20)
    """
    rng, labels, wave, _ = _waves("synthetic_video", split, size, num_examples)
    count = len(labels)
    speed = rng.uniform(0.5, 3, (count, 1, 1))  # pixels a frame
    angle = (labels * (np.pi / 10)).reshape(-1, 1, 1, 1)
    step = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) * speed[..., None]
    flow = np.broadcast_to(np.tile(step, FLOW_FRAMES), (count, size, size, 2 * FLOW_FRAMES))
    flow = flow + rng.normal(0, 0.1, flow.shape)
    state = rng.bit_generator.state
    images = _paint(rng, wave(0.0))
    rng.bit_generator.state = state  # the same colours and the same noise
    later = _paint(rng, wave(5 * speed))
    arrays = {"later": later, "flow": flow.astype(np.float32)}
    return SceneSource("synthetic_video", images, labels, num_classes=10, arrays=arrays)


class LevelSource(SceneSource):
    """Examples in memory of 16 bits: their levels are scaled, and the clipped ones reported.

    Args:
        levels: uint16 [M,H,W,C].
        limits: (low, high) of `config.data.range`.
        name, labels, **options: see `SceneSource`.

    Example:
        >>> levels = np.full((1, 4, 4, 2), 1000, np.uint16)
        >>> source = LevelSource('mine', levels, [0], limits=(0, 2000), num_classes=0, arrays={})
        >>> source[0]['image'].shape, int(source[0]['image'].max())
        ((4, 4, 2), 128)
    """

    def __init__(
        self,
        name: str,
        levels: np.ndarray,
        labels: Any,
        *,
        limits: tuple[float, ...],
        **options: Any,
    ):
        super().__init__(name, scaled(levels, limits)[0], labels, **options)
        self._levels, self._limits = levels, limits

    def encoded(self, index: int) -> Example:
        """Returns `source[index]` with the image as a `Picture`, which counts clipped levels."""
        picture = Picture(
            plain_npy.bytes_of(self._levels[index]),
            f"{self.name} example {index}",
            channels=self._levels.shape[-1],
            levels=self._limits,
        )
        return {**self[index], "image": picture}


def arrays_source(
    folder: str, split: str, *, channels: int = 3, levels: tuple[float, ...] = ()
) -> SceneSource:
    """Reads a user's arrays, FOLDER/train.npz and FOLDER/test.npz, without pickle.

    Each holds 'image' uint8 [M,H,W,C], or uint16 with `levels`, and optionally 'label' int [M]
    from 0, 'class_names' str [K], and further arrays [M,H,W,...]. Classes are those of both files.

    Args:
        folder: of the two files.
        split: 'train' or 'test'.
        channels: number C.
        levels: () or (low, high): the levels of uint16 that become 0 and 255.

    Raises:
        UserError: no such file, a damaged one, no pictures, or invalid labels.
    """
    check_split("arrays", split)
    path = Path(folder) / f"{split}.npz"
    if not folder or not path.is_file():
        raise UserError(
            f"Data set 'arrays' needs the files train.npz and test.npz; '{path}' is not there. "
            "Type --config.data.data_dir=FOLDER."
        )
    arrays = read_npz(path)
    image = arrays.get("image", np.zeros(0))
    deep = image.dtype == np.uint16
    if (image.dtype != np.uint8 and not deep) or image.ndim != 4 or 0 in image.shape:
        content = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in sorted(arrays.items()))
        raise UserError(
            f"'{path}' holds {content or 'nothing'}: expected image uint8 [M,H,W,{channels}], and "
            "perhaps label, int [M]. Write it again with numpy.savez."
        )
    if image.shape[-1] != channels:
        raise UserError(f"The image array of '{path}' {other_channels(image.shape[1:], channels)}.")
    if deep and not levels:
        need_range(f"The image array of '{path}'")
    images = arrays.pop("image")
    labels, names = _labels(path, arrays, len(images))
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"Array '{key}' of '{path}' is of {array.dtype}: expected numbers, [M,H,W,...]."
            )
    make = functools.partial(LevelSource, limits=levels) if deep else SceneSource
    if labels is None:
        return make("arrays", images, np.full(len(images), -1), num_classes=0, arrays=arrays)
    classes = max(int(labels.max()) + 1, len(names or ()))
    other = path.with_name("train.npz" if split == "test" else "test.npz")
    if other.is_file():
        other_labels, other_names = _labels(other, read_npz(other, ("label", "class_names")), None)
        if other_labels is not None:
            classes = max(classes, int(other_labels.max(initial=-1)) + 1)
            check_same(
                other_names,
                names,
                what=f"'{other}' and '{path}'",
                advice="Write both with the same class_names.",
            )
            names = names or other_names
    if names is not None and len(names) < classes:
        raise UserError(
            f"'{path}' has {len(names)} class_names for labels up to {classes - 1}: expected one "
            "name a class. Write it again with numpy.savez."
        )
    return make("arrays", images, labels, num_classes=classes, class_names=names, arrays=arrays)


def _labels(
    path: Path, arrays: dict[str, np.ndarray], count: int | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Removes labels [M] and class names from the arrays of a file and returns them, or None."""
    labels, names = arrays.pop("label", None), arrays.pop("class_names", None)
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise UserError(
            f"'{path}' holds class_names {names.dtype} {list(names.shape)}: expected text [K]."
        )
    class_names = None if names is None else normalized(names.tolist())
    if labels is None:
        return None, class_names
    start = f"'{path}' holds label {labels.dtype} {list(labels.shape)}"
    end = "Write it again with numpy.savez; leave label out for pictures without labels."
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or count not in (None, len(labels)):
        size = "" if count is None else f" with M={count}"
        value = labels.flat[0] if labels.size else "none"
        raise UserError(
            f"{start} (the first is {value}): expected integers [M]{size}, one a picture. {end}"
        )
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= MAX_CLASSES:
        raise UserError(
            f"{start} with the value {low if low < 0 else high}: expected numbers of classes from "
            f"0 to {MAX_CLASSES - 1:,} at most. {end}"
        )
    return labels.astype(np.int32), class_names


def _waves(name: str, split: str, size: int, num_examples: int):
    """Returns generator, labels, function phase -> waves [M,H,W] in [-1, 1], and their slopes."""
    check_split(name, split)
    count = num_examples if split == "train" else max(1, num_examples // 4)
    rng = np.random.default_rng([11, len(name), ("train", "test").index(split), size])
    labels = np.arange(count) % 10
    angle = (labels * (np.pi / 10)).reshape(-1, 1, 1)
    per_pixel = 2 * np.pi / rng.uniform(6, 12, (count, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    y, x = np.mgrid[:size, :size][:, None]
    across = (x * np.cos(angle) + y * np.sin(angle)) * per_pixel + phase
    steep = per_pixel * np.cos(across)
    slope = steep * np.cos(angle), steep * np.sin(angle)
    return rng, labels, lambda shift: np.sin(across - shift * per_pixel), slope


def _paint(rng: np.random.Generator, height: np.ndarray) -> np.ndarray:
    """Draws the wave in two random colours, with noise: uint8 [M,H,W,3]."""
    mix = (0.5 + 0.5 * height)[..., None]
    first, second = rng.uniform(0, 255, (2, len(height), 1, 1, 3))
    noise = rng.normal(0, 16, (*height.shape, 3))
    return np.clip(mix * first + (1 - mix) * second + noise, 0, 255).astype(np.uint8)
