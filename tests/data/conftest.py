"""Pictures of every kind, as files."""

import io

import numpy as np
import pytest
from PIL import Image


def encode(image, kind="PNG", **options):
    """Bytes of a picture file; `image` is a PIL image or uint8 [H,W,3]."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(name="encode", scope="session")
def encode_fixture():
    return encode


@pytest.fixture
def colours():
    """A picture uint8 [20,30,3] in which every pixel differs from its neighbours."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def class_folder(tmp_path):
    """pictures/{train,val}/{cat,dog}/: 6 and 3 of a class; grey level 10 * class + number."""
    root = tmp_path / "pictures"
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                level = np.full((8, 8, 3), 10 * label + i, np.uint8)
                (folder / f"{i}.png").write_bytes(encode(level))
    return root
