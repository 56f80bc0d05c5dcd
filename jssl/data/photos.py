"""The data set `photos`: tiles of 16 photographs from installed dependencies.

A tile's label is the index of its photograph. Every photograph is divided into blocks; all tiles
of a block are in one split, so that no pixel of a test tile is in a train tile. Tiles overlap
inside a block; tiles of one colour (the black around the retina) are left out. Classes are
balanced: 200 train and 75 test tiles of each photograph at 32 px. Ten photographs are in colour;
the six grey ones become three equal channels.

    tile  block  stride  train  test
    32    96     16      3,200  1,200
    64    128    16      3,130  1,116
    96    144    16      2,932    710

Difficulty at 32 px: a k-nearest-neighbour classifier (k=20, cosine, weights exp(s/0.1)) on raw
pixels errs on 61.4 % of the test tiles, 737; chance is 93.75 %. (In float32 rounding decides some
votes: 738 on one machine.)

The pictures, their origin and licence, from the documentation of `skimage.data` and from
`sklearn/datasets/images/README.txt`:

    0  astronaut      Eileen Collins; NASA Great Images database; public domain.
    1  chelsea        Chelsea the cat; Stefan van der Walt; CC0.
    2  china          A Chinese temple; danielbuechele (Flickr); CC BY 2.0, retrieved by R. Layton.
    3  coffee         A cup at Pikolo Espresso Bar; Rachel Michetti; CC0.
    4  flower         A flower; vultilion (Flickr; the README's text credits danielbuechele);
                      CC BY 2.0, retrieved by R. Layton.
    5  hubble         Hubble eXtreme Deep Field; NASA, HubbleSite; public domain.
    6  ihc            Colonic glands, immunohistochemical staining; Center for Microscopy and
                      Molecular Imaging (CMMI); no known copyright restrictions.
    7  motorcycle     Left picture of the stereo pair (the right one shows the same scene and is not
                      used); Middlebury 2014 stereo benchmark: D. Scharstein, H. Hirschmueller,
                      Y. Kitajima, G. Krathwohl, N. Nesic, X. Wang, P. Westling; scikit-image
                      states no licence.
    8  retina         Mikael Haeggstroem, Wikimedia Commons; CC0.
    9  rocket         DSCOVR on a Falcon 9; SpaceX; public domain.
    10 brick (grey)   A brick wall; CC0Textures (Bricks25); CC0.
    11 camera (grey)  A photographer; Lav Varshney; CC0.
    12 coins (grey)   Greek coins from Pompeii; Brooklyn Museum; no known copyright restrictions.
    13 grass (grey)   Grass; linolafett (DeviantArt); CC0.
    14 gravel (grey)  Gravel; CC0Textures (Gravel04); CC0.
    15 moon (grey)    Surface of the moon; scikit-image states neither origin nor licence.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from jssl.errors import UserError

# label -> (class name, package, path inside the package)
PHOTOS: tuple[tuple[str, str, str], ...] = (
    ("astronaut", "skimage", "data/astronaut.png"),
    ("chelsea", "skimage", "data/chelsea.png"),
    ("china", "sklearn", "datasets/images/china.jpg"),
    ("coffee", "skimage", "data/coffee.png"),
    ("flower", "sklearn", "datasets/images/flower.jpg"),
    ("hubble", "skimage", "data/hubble_deep_field.jpg"),
    ("ihc", "skimage", "data/ihc.png"),
    ("motorcycle", "skimage", "data/motorcycle_left.png"),
    ("retina", "skimage", "data/retina.jpg"),
    ("rocket", "skimage", "data/rocket.jpg"),
    ("brick", "skimage", "data/brick.png"),
    ("camera", "skimage", "data/camera.png"),
    ("coins", "skimage", "data/coins.png"),
    ("grass", "skimage", "data/grass.png"),
    ("gravel", "skimage", "data/gravel.png"),
    ("moon", "skimage", "data/moon.png"),
)
CLASS_NAMES: tuple[str, ...] = tuple(name for name, _, _ in PHOTOS)

# Smallest block for each tile: chelsea (451 x 300) must still have blocks of both splits.
BLOCKS: dict[int, int] = {32: 96, 64: 128, 96: 144}
STRIDE = 16
PER_CLASS: dict[str, int] = {"train": 200, "test": 75}


@functools.cache
def load(split: str, tile: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tiles of one split; the arrays are cached and read-only.

    Args:
        split: 'train' or 'test'.
        tile: side of a tile in pixels: 32, 64 or 96.

    Returns:
        Images uint8 [M,tile,tile,3], sorted by label, and labels int32 [M] in [0, 16).

    Raises:
        UserError: another split or tile size, or a missing photograph.

    Example:
        >>> images, labels = load('train', 32)
        >>> images.shape, len(set(labels.tolist()))
        ((3200, 32, 32, 3), 16)
    """
    if split not in PER_CLASS:
        raise UserError(f"Data set 'photos' has the splits train and test; found '{split}'.")
    if tile not in BLOCKS:
        raise UserError(
            f"Data set 'photos' is cut into tiles of {', '.join(map(str, BLOCKS))} pixels; found "
            f"data.tile={tile}. Type for example --config.data.tile=32."
        )
    images, labels = [], []
    for label in range(len(PHOTOS)):
        photo = read(label)
        corners = tile_corners(photo.shape[0], photo.shape[1], split, tile)
        corners = [(y, x) for y, x in corners if shows_something(photo[y : y + tile, x : x + tile])]
        keep = min(PER_CLASS[split], len(corners))
        for i in range(keep):
            y, x = corners[i * len(corners) // keep]  # evenly over all blocks
            images.append(photo[y : y + tile, x : x + tile])
        labels.append(np.full(keep, label, np.int32))
    arrays = np.stack(images), np.concatenate(labels)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def read(label: int) -> np.ndarray:
    """Reads one whole photograph from an installed package, uint8 [H,W,3]."""
    name, package, path = PHOTOS[label]
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    file = Path(spec.origin).parent / path if spec and spec.origin else None
    if file is None or not file.is_file():
        project = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise UserError(
            f"The photograph '{name}' ({package}/{path}) was not found in the installed {project}; "
            f"expected it inside the wheel. Type: pip install --force-reinstall {project}"
        )
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def tile_corners(height: int, width: int, split: str, tile: int) -> list[tuple[int, int]]:
    """Returns the upper left corners (y, x) of all tiles of a split in a photograph."""
    rows, columns = height // BLOCKS[tile], width // BLOCKS[tile]
    side_y, side_x = height // rows, width // columns
    return [
        (y, x)
        for row in range(rows)
        for column in range(columns)
        if is_test_block(row, column) == (split == "test")
        for y in range(row * side_y, (row + 1) * side_y - tile + 1, STRIDE)
        for x in range(column * side_x, (column + 1) * side_x - tile + 1, STRIDE)
    ]


def shows_something(tile: np.ndarray) -> bool:
    """Whether a tile [h,w,3] has a channel with a standard deviation of at least 1 of 255."""
    return bool(tile.reshape(-1, 3).std(axis=0).max() >= 1)


def is_test_block(row: int, column: int) -> bool:
    """Whether a block is test: every fourth of a row, shifted by two in each row."""
    return (2 * row + column) % 4 == 3
