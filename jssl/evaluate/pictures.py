"""Pictures on their way to a network: prepared as for evaluation, each size and failure kept."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jssl import data
from jssl.augment._pixels import in_words
from jssl.data.channels import channels_in_words
from jssl.data.decode import Picture
from jssl.data.walk import printable
from jssl.run.writers import say

SHOWN = 5  # pictures named in a message
Transform = Callable[[dict[str, Any], Any], dict[str, Any]]


class Recorded:
    """A source of picture files that records the size of each picture.

    Args:
        source: of picture files, see `jssl.data.Source`.
        transform: to one square picture, see `jssl.data.eval_transform`.
        channels: of the pictures.
        side: of that square; None: a picture that cannot be used is an error, as in the source.
            With a side it becomes a black square, and its error is recorded.

    Attributes:
        sizes: int32 [M,2], height and width; 0 where a picture was not read.
        failed: index -> why the picture cannot be used.

    Example:
        >>> recorded = Recorded(data.FileSource(['no_such.jpg']), data.CentreCrop(4, 4), side=4)
        >>> recorded.transform(recorded.encoded(0), None)['image'].shape, recorded.failed
        ((4, 4, 3), {0: "Picture 'no_such.jpg' cannot be read: No such file or directory."})
    """

    def __init__(
        self, source: Any, transform: Transform, *, side: int | None = None, channels: int = 3
    ):
        self.source, self._transform, self._side = source, transform, side
        self._channels = channels
        self.name, self.num_classes = source.name, source.num_classes
        self.class_names, self.on_error = source.class_names, source.on_error
        self.image_shape = source.image_shape
        self.sizes = np.zeros((len(source), 2), np.int32)
        self.failed: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.source)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source.encoded(index)`, and records the size of the picture."""
        try:
            example = self.source.encoded(index)
            self.sizes[index] = example["image"].size()
        except data.PictureError as error:
            return self._failure(index, error)
        return example

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        image = example["image"]
        return {**example, "image": image.pixels() if isinstance(image, Picture) else image}

    def transform(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Returns the example with its image as the square picture."""
        if not isinstance(example["image"], Picture):
            return example
        try:
            return self._transform(example, rng)
        except data.PictureError as error:
            return self._failure(int(example["index"]), error)

    def _failure(self, index: int, error: data.PictureError) -> dict[str, Any]:
        if self._side is None:
            raise error
        self.failed[index] = str(error)
        black = np.zeros((self._side, self._side, self._channels), np.uint8)
        return {"image": black, "label": np.int32(-1), "index": np.int32(index)}

    def fingerprint(self) -> str:
        """Returns that of the source."""
        return self.source.fingerprint()


def crop(config: ConfigDict) -> Transform:
    """Returns the transform of picture files of any size to the square of a run's network."""
    transform = data.eval_transform(config.data, data.FileSource(()), size=config.augment.size)
    assert transform is not None  # it is None for arrays of one size only
    return transform


def reading(section: ConfigDict) -> dict[str, Any]:
    """Returns the keys of a `data` section that say how a file is read, for `FileSource`."""
    return data.reading_of(section, own_pictures=True)


def preprocessing(config: ConfigDict) -> str:
    """Describes how a picture is prepared for the network of a run.

    Example:
        >>> from jssl import config
        >>> preprocessing(config.base('supervised', preset='imagenet'))
        'short side to 256 px (bicubic), central 224 x 224 px, normalised by imagenet'
    """
    size, crop = config.augment.size, config.data.get("eval_crop", data.DEFAULTS["eval_crop"])
    how = config.data.get("eval_interpolation", data.DEFAULTS["eval_interpolation"])
    text = channels_in_words(config.data)
    other = "" if text == channels_in_words({}) else f"{text}; "
    return (
        f"{other}short side to {int(size / crop)} px ({how}), central {size} x {size} px, "
        f"normalised by {in_words(config.augment)}"
    )


def say_failed(paths: Sequence[str], failed: dict[int, str], effect: str) -> None:
    """Prints which pictures could not be read; nothing if all could be.

    Args:
        paths: of all pictures.
        failed: index -> why the picture cannot be used.
        effect: what becomes of them, for the end of the line.

    Example:
        >>> say_failed(['a.jpg', 'b.jpg'], {1: 'it is empty'}, 'they are left out')
        NOTE 1 of 2 pictures could not be read: 'b.jpg'; they are left out
    """
    if not failed:
        return
    named = ", ".join(f"'{printable(paths[i])}'" for i in sorted(failed)[:SHOWN])
    rest = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    say(f"NOTE {len(failed)} of {len(paths)} pictures could not be read: {named}{rest}; {effect}")
