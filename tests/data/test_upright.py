"""The EXIF orientation of the user's own pictures is applied, however they are brought."""

import io
import tarfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data.build import DEFAULTS

EXIF = Image.Exif()
EXIF[0x0112] = 8  # turn by 270 degrees


def make(kind, tmp_path, jpeg, orientation):
    """Returns a source with one picture that is stored lying on its side."""
    path = tmp_path / "pictures" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(jpeg)
    section = ConfigDict({**DEFAULTS, "exif_orientation": orientation, "name": kind})
    items = {"path": path, "bytes": jpeg, "pillow": Image.open(io.BytesIO(jpeg))}
    if kind in items:
        section.name = "python"
        with data.provided([items[kind]]):
            return data.make_source(section, "train")
    section.data_dir = str(path.parent)
    if kind == "shards":
        with tarfile.open(tmp_path / "a.tar", "w") as shard:
            shard.add(path, "a.jpg")
        section.name, section.data_dir = "shards:*.tar", str(tmp_path)
    if kind == "hf":
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image()})
        rows = {"image": [{"bytes": jpeg, "path": None}]}
        section.data_dir = str(tmp_path / "saved")
        whole = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict({"train": whole}).save_to_disk(section.data_dir)
    return data.make_source(section, "train")


@pytest.mark.parametrize("orientation", ["", "ignore"])
@pytest.mark.parametrize("kind", ["folder", "path", "bytes", "pillow", "shards", "hf"])
def test_own_pictures_are_upright(kind, orientation, tmp_path, encode):
    stored = np.kron([[0, 80, 160], [200, 120, 40]], np.ones((16, 16)))
    jpeg = encode(np.repeat(stored[..., None], 3, axis=2).astype(np.uint8), "JPEG", exif=EXIF)
    pixels = make(kind, tmp_path, jpeg, orientation)[0]["image"]
    expected = stored if orientation == "ignore" else np.rot90(stored)
    assert pixels.shape == (*expected.shape, 3)
    assert np.abs(pixels[..., 0].astype(float) - expected).max() < 12
