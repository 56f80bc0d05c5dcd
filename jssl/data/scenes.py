"""Arrays beside a picture: synthetic ones for trying a method, and a user's own from .npz files.

What each array must hold is said in `jssl.augment.modalities.VIEWS`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.sources import ArraySource, Example, check_split
from jssl.errors import UserError

SEGMENTS = 4  # labels of 'synthetic_scenes'
FLOW_FRAMES = 10  # fields of flow of 'synthetic_video'


class SceneSource(ArraySource):
    """Examples in memory with further arrays beside the picture.

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
    ):
        super().__init__(name, images, labels, num_classes=num_classes)
        for key, array in arrays.items():
            if array.shape[:3] != images.shape[:3]:
                raise UserError(
                    f"Array '{key}' of data set '{name}' is {list(array.shape)}: expected "
                    f"{list(images.shape[:3])} and then its channels, as the pictures."
                )
        self.arrays = dict(arrays)

    def __getitem__(self, index: int) -> Example:
        beside = {key: array[index] for key, array in self.arrays.items()}
        return {**super().__getitem__(index), **beside}

    def fingerprint(self) -> str:
        """Hexadecimal digits that change when any picture, label or array changes."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for key in sorted(self.arrays):
            digest.update(f"{key} {self.arrays[key].dtype} {self.arrays[key].shape}".encode())
            digest.update(np.ascontiguousarray(self.arrays[key]))
        return digest.hexdigest()[:16]


def synthetic_scenes(split: str, *, size: int = 32, num_examples: int = 1024) -> SceneSource:
    """Corrugated walls: a picture with its depth, surface normals and semantic labels.

    The wall's depth is a wave, whose direction is one of ten classes; the picture is the wall under
    a light of its own colour, with noise; the label of a pixel is which quarter of the wave's
    height it has. Depth is float32 [M,H,W,1] in metres, normals [M,H,W,3], labels int32 [M,H,W].

    Args:
        split: 'train' or 'test'.
        size: side of the pictures in pixels.
        num_examples: of the train split; the test split has a quarter.

    Example:
        >>> sorted(synthetic_scenes('test', size=8, num_examples=40).arrays)
        ['depth', 'normals', 'segmentation']
    """
    rng, labels, wave, slope = _waves("synthetic_scenes", split, size, num_examples)
    height, dx, dy = wave(0.0), *slope
    depth = (2 + rng.uniform(0, 4, (len(labels), 1, 1)) + 0.5 * height)[..., None]
    # A wall z = d + h(x, y) seen along z: its normal is (h_x, h_y, -1), turned to the camera;
    # `up` is against the rows.
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
    """Travelling stripes: a frame, one some time later, and the flow of ten frames around it.

    The direction of travel is one of ten classes, its speed each example's own. 'later' is uint8
    [M,H,W,3]; 'flow' float32 [M,H,W,20], pixels right and down in turn.

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
    rng.bit_generator.state = state  # the same colours; the noise is then the camera's pattern
    later = _paint(rng, wave(5 * speed))
    arrays = {"later": later, "flow": flow.astype(np.float32)}
    return SceneSource("synthetic_video", images, labels, num_classes=10, arrays=arrays)


def arrays_source(folder: str, split: str) -> SceneSource:
    """A user's own arrays: FOLDER/train.npz and FOLDER/test.npz, read without pickle.

    Each holds 'image' uint8 [M,H,W,3], perhaps 'label' int [M], and any further arrays [M,H,W,...].

    Args:
        folder: where the two files lie.
        split: 'train' or 'test'.

    Raises:
        UserError: no such file, or no pictures in it.
    """
    check_split("arrays", split)
    path = Path(folder) / f"{split}.npz"
    if not folder or not path.is_file():
        raise UserError(
            f"Data set 'arrays' needs the files train.npz and test.npz; '{path}' is not there. "
            "Type --config.data.data_dir=FOLDER."
        )
    with np.load(path) as held:
        arrays = {key: held[key] for key in held.files}
    image = arrays.get("image", np.zeros(0))
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        held = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in sorted(arrays.items()))
        raise UserError(
            f"'{path}' holds {held or 'nothing'}: expected image uint8 [M,H,W,3], and perhaps "
            "label, int [M]. Write it again with numpy.savez."
        )
    images = arrays.pop("image")
    labels = arrays.pop("label", np.full(len(images), -1))
    classes = int(labels.max(initial=-1)) + 1
    return SceneSource("arrays", images, labels, num_classes=classes, arrays=arrays)


def _waves(name: str, split: str, size: int, num_examples: int):
    """Draws of one split: generator, labels, phase -> waves [M,H,W] in [-1, 1], their slopes."""
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
    """The wave in two colours of its own, with noise: uint8 [M,H,W,3]."""
    mix = (0.5 + 0.5 * height)[..., None]
    first, second = rng.uniform(0, 255, (2, len(height), 1, 1, 3))
    noise = rng.normal(0, 16, (*height.shape, 3))
    return np.clip(mix * first + (1 - mix) * second + noise, 0, 255).astype(np.uint8)
