"""HEIC pictures, with the extra and without it."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jssl import data
from jssl.data import heif, walk
from jssl.data.decode import Picture, decode
from jssl.errors import UserError

pillow_heif = pytest.importorskip("pillow_heif")


@pytest.fixture
def smooth():
    """uint8 [40,60,3], which lossless coding keeps to a level or two."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 2], -1).astype(np.uint8)


def encode(image, **options):
    """Bytes of a HEIC file; lossless up to the rounding of its colours."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    options = {"quality": -1, "chroma": 444, **options}
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def close(array, expected):
    assert array.dtype == np.uint8 and array.shape == expected.shape
    assert np.abs(array.astype(int) - expected).max() <= 2


def test_pixels_size_and_crops(smooth):
    picture = Picture(encode(smooth), "a.heic")
    assert picture.size() == (40, 60)
    close(picture.pixels(), smooth)
    assert picture.kinds == ()
    box = picture.crops([(10.0, 20.0, 20.0, 20.0)], (20, 20), interpolation="bilinear")
    close(box[0], smooth[10:30, 20:40])


def test_grey_alpha_and_several_pictures(smooth):
    close(decode(encode(smooth[..., 0]), "a"), np.repeat(smooth[..., :1], 3, axis=2))
    alpha = np.concatenate([smooth, np.full((40, 60, 1), 255, np.uint8)], -1)
    picture = Picture(encode(alpha), "a")
    close(picture.pixels(), smooth)
    assert picture.kinds == ("alpha",)
    both = pillow_heif.from_pillow(Image.fromarray(smooth))
    both.add_from_pillow(Image.fromarray(255 - smooth))
    buffer = io.BytesIO()
    both.save(buffer, quality=-1, chroma=444, save_all=True)
    picture = Picture(buffer.getvalue(), "a")
    close(picture.pixels(), smooth)
    assert picture.kinds == ("frames",)


def test_levels_of_ten_bits_are_cut(smooth):
    deep = smooth.astype(np.uint16) * 257
    stored = pillow_heif.from_bytes("RGB;16", (60, 40), deep.tobytes())
    buffer = io.BytesIO()
    stored.save(buffer, quality=-1, chroma=444)
    picture = Picture(buffer.getvalue(), "a")
    close(picture.pixels(), smooth)
    assert picture.kinds == ("16-bit",)


def test_the_rotation_in_the_file_is_applied(smooth):
    exif = Image.Exif()
    exif[0x0112] = 6  # pillow-heif writes it as the rotation of the container
    picture = Picture(encode(smooth, exif=exif.tobytes()), "a")
    assert picture.size() == (60, 40)
    close(picture.pixels(), np.rot90(smooth, -1))
    assert picture.kinds == ()


def test_damage_that_can_be_seen_is_refused(smooth):
    content = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for damaged in (
        content[:30],
        content[: len(content) // 2],
        content[:-1],
        content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
        content[:40] + bytes(len(content) - 40),
    ):
        with pytest.raises(data.PictureError, match="'a.heic' cannot be decoded"):
            Picture(damaged, "a.heic").pixels()


def test_nothing_is_registered_with_pillow(smooth):
    data = encode(smooth)
    before = dict(Image.registered_extensions())  # another library may have registered its own
    Picture(data, "a").pixels()
    assert Image.registered_extensions() == before


def test_a_folder_of_heic(smooth, tmp_path):
    for name in ("cat/a.heic", "cat/b.HEIF", "dog/c.HEIC", "dog/d.hif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(smooth))
    source = data.FolderSource(str(tmp_path), "train")
    assert source.labels.tolist() == [0, 0, 1, 1]
    close(source[3]["image"], smooth)


def test_without_the_extra(smooth, tmp_path, monkeypatch):
    path = tmp_path / "a.HEIC"
    path.write_bytes(encode(smooth))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = r"a.HEIC' cannot be decoded: it is HEIC, .*: type pip install 'jssl\[heic\]'"
    with pytest.raises(data.PictureError, match=message):
        Picture.read(path).pixels()
    monkeypatch.setattr(walk, "ENDINGS", tuple(e for e in walk.ENDINGS if e not in heif.ENDINGS))
    with pytest.raises(UserError, match=r"found 1 x '.HEIC'.*To read HEIC type pip install"):
        data.FolderSource(str(tmp_path), "train")
    Image.fromarray(smooth).save(tmp_path / "b.png")
    source = data.FolderSource(str(tmp_path), "train")
    assert len(source) == 1
    assert "files ending in .HEIC (pip install 'jssl[heic]' reads them)" in data.describe(source)


def test_other_formats_of_the_container_are_not_taken_for_heic():
    head = b"\0\0\0\x1cftyp%s\0\0\0\0%s"
    assert heif.is_heif(head % (b"mif1", b"mif1heicmiaf"))
    assert not heif.is_heif(head % (b"avif", b"mif1miafavif"))
    assert not heif.is_heif(head % (b"isom", b"isomiso2mp41"))
    assert not heif.is_heif(b"")
