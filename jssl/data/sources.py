"""The protocol of a source, and the sources in memory."""

import copy
import functools
import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jssl.data import photos
from jssl.data.channels import grey_of
from jssl.errors import UserError

Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of a data set, with a name and a fingerprint.

    Attributes:
        name: of the data set, as in `config.data.name`.
        num_classes: number of classes; 0 if there are none (every label is then -1).
        class_names: by label; None if unknown, () without labels. The same for all splits of the
            data set.
        image_shape: (H, W, C) if all pictures have it, None if they differ.
        on_error: 'stop' or 'skip': what the pipeline does with a picture that cannot be used.

    `source[i]` is `{'image': uint8 [H,W,C], 'label': int32 [], 'index': int32 []}`. A source of
    picture files also has `encoded(i)`, whose image is a `Picture`, not yet decoded.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def image_shape(self) -> tuple[int, int, int] | None: ...

    @property
    def on_error(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def fingerprint(self) -> str: ...


class ArraySource:
    """Examples in memory: images uint8 [M,H,W,C], labels int32 [M].

    Example:
        >>> source = ArraySource('mine', np.zeros((2, 4, 4, 3), np.uint8), [0, 1], num_classes=2)
        >>> len(source), source[1]['image'].shape, int(source[1]['label'])
        (2, (4, 4, 3), 1)
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Any,
        *,
        num_classes: int,
        class_names: tuple[str, ...] | None = None,
    ):
        labels = np.asarray(labels, np.int32)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [M,H,W,C]; found {images.dtype} {list(images.shape)}"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be [M] with M={len(images)}; found {list(labels.shape)}")
        self.name = name
        self.num_classes = num_classes
        self.class_names = class_names if num_classes else ()
        self.images = images
        self.labels = labels
        self.image_shape = images.shape[1:]
        self.on_error = "stop"  # never used: nothing is decoded

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {
            "image": self.images[index],
            "label": self.labels[index],
            "index": np.int32(index),
        }

    def fingerprint(self) -> str:
        """Returns a hash of the images and labels."""
        return _digest(self)


@functools.lru_cache(maxsize=8)
def _digest(source: ArraySource) -> str:
    digest = hashlib.sha256(f"{source.name} {source.images.shape}".encode())
    digest.update(np.ascontiguousarray(source.images).data)
    digest.update(source.labels)
    return digest.hexdigest()[:16]


def photos_source(split: str, *, tile: int = 32) -> ArraySource:
    """Returns the photograph tiles; see `jssl.data.photos`.

    Example:
        >>> source = photos_source('test', tile=32)
        >>> source.name, len(source), source.num_classes
        ('photos', 1200, 16)
    """
    images, labels = photos.load(split, tile)
    return ArraySource(
        "photos",
        images,
        labels,
        num_classes=len(photos.PHOTOS),
        class_names=photos.CLASS_NAMES,
    )


def digits_source(split: str) -> ArraySource:
    """Returns the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels enlarged to 32 x 32 RGB.

    Each of the 17 grey levels v becomes round(255 v / 16), each pixel a square of 4 x 4. Every
    fifth example is a test example: 1,438 train, 359 test.

    Example:
        >>> len(digits_source('train')), len(digits_source('test'))
        (1438, 359)

    Reference: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0.
    """
    from sklearn.datasets import load_digits  # slow import

    check_split("digits", split)
    data = load_digits()
    test = np.arange(len(data.target)) % 5 == 4
    chosen = test if split == "test" else ~test
    grey = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(grey, 4, axis=1), 4, axis=2)
    return ArraySource(
        "digits",
        np.repeat(images[..., None], 3, axis=3),
        data.target[chosen],
        num_classes=10,
        class_names=tuple(map(str, range(10))),
    )


def synthetic_source(split: str, *, size: int = 32, num_examples: int = 1024) -> ArraySource:
    """Returns noisy coloured stripes, whose direction is the class, one of ten.

    Phase, wavelength, the two colours and the noise are random for each example; the test split
    has a quarter of the examples, from another seed.

    Args:
        split: 'train' or 'test'.
        size: side of the pictures in pixels.
        num_examples: of the train split.

    Example:
        >>> synthetic_source('test', size=16, num_examples=100).images.shape
        (25, 16, 16, 3)
    """
    check_split("synthetic", split)
    count = num_examples if split == "train" else max(1, num_examples // 4)
    rng = np.random.default_rng([7, ("train", "test").index(split), size])
    labels = np.arange(count) % 10
    angle = (labels * (np.pi / 10)).reshape(-1, 1, 1)
    wavelength, phase = rng.uniform(4, 10, (count, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
    y, x = np.mgrid[:size, :size][:, None]
    across = x * np.cos(angle) + y * np.sin(angle)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * across / wavelength + phase)[..., None]
    first, second = rng.uniform(0, 255, (2, count, 1, 1, 3))
    noise = rng.normal(0, 16, (count, size, size, 3))
    images = np.clip(wave * first + (1 - wave) * second + noise, 0, 255).astype(np.uint8)
    return ArraySource("synthetic", images, labels, num_classes=10)


def in_channels(source: ArraySource, channels: int) -> ArraySource:
    """Returns a source of colours as it is (3 channels), or in grey (1).

    Args:
        source: images uint8 [M,H,W,3].
        channels: number that is wanted.

    Raises:
        UserError: another number of channels.

    Example:
        >>> in_channels(digits_source('test'), 1).image_shape
        (32, 32, 1)
    """
    if channels == 3:
        return source
    if channels != 1:
        raise UserError(
            f"Data set '{source.name}' has pictures of three channels, found data.channels="
            f"{channels}. Type --config.data.channels=3, or 1 for grey."
        )
    grey = copy.copy(source)
    grey.images = grey_of(source.images)
    grey.image_shape = grey.images.shape[1:]
    return grey


def check_split(name: str, split: str) -> None:
    """Raises UserError unless the split is train or test."""
    if split not in ("train", "test"):
        raise UserError(f"Data set '{name}' has the splits train and test; found '{split}'.")
