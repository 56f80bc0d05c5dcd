"""FGVC-Aircraft and Birdsnap from small archives of the official layout."""

import bz2
import gzip
import io
import lzma
import os
import tarfile

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.data.listed import BANNER
from jssl.data.prepare import main, prepare
from jssl.errors import UserError

VARIANTS = ("707-320", "An-12", "Cessna 172")
LEVELS = {"train": 6, "val": 3, "test": 3}
SPECIES = ("Black-chinned Hummingbird", "Wilson's Snipe")


def plane(level):
    """64 x 90 of one grey, above a white banner of 20 rows."""
    image = np.full((64 + BANNER, 90, 3), 255, np.uint8)
    image[:64] = 10 * level + 20
    return image


def pack(path, files, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


@pytest.fixture(name="aircraft_files")
def aircraft_fixture(encode):
    top, files, number = "fgvc-aircraft-2013b", {}, 0
    files[f"{top}/README.md"] = b"FGVC-Aircraft"
    files[f"{top}/data/variants.txt"] = "".join(f"{v}\n" for v in VARIANTS).encode()
    for split, count in LEVELS.items():
        lines = []
        for i in range(count):
            name = f"{1025794 + number:07d}"
            files[f"{top}/data/images/{name}.jpg"] = encode(plane(number), "JPEG", quality=95)
            lines.append(f"{name} {VARIANTS[i % 3]}\n")
            number += 1
        files[f"{top}/data/images_variant_{split}.txt"] = "".join(lines).encode()
    return files


@pytest.fixture(name="bird_files")
def bird_fixture(encode):
    """Eight listed pictures, two of them for the test; one of each split is missing."""
    files, rows, test = {}, ["url\tmd5\tpath\tspecies_id\tbb_x1"], ["path"]
    species = ["id\tcommon\tscientific\tdir"]
    for i, common in enumerate(SPECIES):
        folder = common.lower().replace(" ", "_").replace("'", "")
        species.append(f"{i + 1}\t{common}\tAves {i}\t{folder}")
        for k in range(4):
            path = f"{folder}/{100 * i + k}.jpg"
            rows.append(f"http://nowhere/{k}\tabc\t{path}\t{i + 1}\t3")
            test += [path] if k == 3 else []
            if (i, k) not in ((0, 1), (1, 3)):
                picture = np.full((20, 30, 3), 40 * i + 10 * k, np.uint8)
                files[f"birdsnap/download/images/{path}"] = encode(picture)
    for name, lines in (("species", species), ("images", rows), ("test_images", test)):
        files[f"birdsnap/{name}.txt"] = ("\n".join(lines) + "\n").encode()
    return files


def source(name, folder, split, part="train", **values):
    config = ConfigDict({**DEFAULTS, "name": name, "data_dir": str(folder), **values})
    if split:
        config[f"{part}_split"] = split
    return data.make_source(config, part)


def test_aircraft_without_its_banner(tmp_path, aircraft_files, capsys):
    archive = pack(tmp_path / "a.tar.gz", aircraft_files)
    home = tmp_path / "sets"
    assert main(["fgvc_aircraft", f"--data_dir={home}", f"--archive={archive}"]) == 0
    out = capsys.readouterr().out
    assert "fgvc_aircraft train: 6 pictures." in out and "test: 3 pictures." in out
    assert f"--config.data.name=fgvc_aircraft --config.data.data_dir={home}" in out
    assert [p.name for p in home.iterdir()] == ["fgvc_aircraft"]  # nothing left beside it
    first = 0
    for split, count in LEVELS.items():
        result = source("fgvc_aircraft", home, split)
        assert isinstance(result, data.Source)
        assert (len(result), result.num_classes, result.class_names) == (count, 3, VARIANTS)
        for i in range(count):
            example = result[i]
            assert example["image"].shape == (64, 90, 3) and example["image"].dtype == np.uint8
            np.testing.assert_allclose(example["image"], 10 * (first + i) + 20, atol=2)
            assert (example["label"], example["index"]) == (i % 3, i)
            assert example["label"].dtype == np.int32
        first += count
    both = source("fgvc_aircraft", home, "")
    assert len(both) == 9 and len(source("fgvc_aircraft", home, "", "test")) == 3
    names = ["train", "val", "trainval", "test"]
    assert len({source("fgvc_aircraft", home, s).fingerprint() for s in names}) == 4
    # It is there: nothing is unpacked again, and no archive is needed.
    assert prepare("fgvc_aircraft", str(home)) == str(home / "fgvc_aircraft")


def test_crops_exclude_the_banner(tmp_path, encode, aircraft_files):
    """Also where a JPEG is decoded at a reduced size: 520 rows at an eighth are 65."""
    tall = np.full((500 + BANNER, 640, 3), 255, np.uint8)
    tall[:500] = 50
    name = "fgvc-aircraft-2013b/data/images/1025794.jpg"
    files = {**aircraft_files, name: encode(tall, "JPEG", quality=95)}
    prepare("fgvc_aircraft", str(tmp_path), str(pack(tmp_path / "a.tgz", files)))
    picture = source("fgvc_aircraft", tmp_path, "train").encoded(0)["image"]
    assert picture.size() == (500, 640)
    for side in (32, 224):
        crop = picture.crops([(0, 0, 500, 640)], (side, side), interpolation="bilinear")
        assert crop.max() <= 53
    square = data.CentreCrop(64, resize=64)(source("fgvc_aircraft", tmp_path, "train").encoded(0))
    assert square["image"].shape == (64, 64, 3) and square["image"].max() <= 53


def test_birdsnap_counts_missing_pictures(tmp_path, bird_files, capsys):
    archive = pack(tmp_path / "b.tgz", bird_files)
    assert main(["birdsnap", f"--data_dir={tmp_path}", f"--archive={archive}"]) == 0
    out = capsys.readouterr().out
    assert "birdsnap train: 5 pictures, 1 that the list names are not here." in out
    train, test = (source("birdsnap", tmp_path, "", part) for part in ("train", "test"))
    assert (train.missing, test.missing, train.class_names) == (1, 1, SPECIES)
    levels = [int(train[i]["image"].mean()) for i in range(5)]
    assert levels == [0, 20, 40, 50, 60] and train.labels.tolist() == [0, 0, 1, 1, 1]
    assert test[0]["image"].mean() == 30 and len(test) == 1


def test_archives_cannot_write_outside_the_folder(tmp_path, aircraft_files):
    """No absolute path, no '..', no link; see test_unpack.py."""
    for extra, links in (
        ({"../escaped.txt": b"x"}, ()),
        ({}, [("fgvc-aircraft-2013b/out", "../../..")]),
    ):
        archive = pack(tmp_path / "bad.tar.gz", {**aircraft_files, **extra}, links)
        home = tmp_path / "inner" / "sets"
        with pytest.raises(UserError, match="bad.tar.gz' cannot be unpacked"):
            prepare("fgvc_aircraft", str(home), str(archive))
        assert not list(home.iterdir()) and not list(tmp_path.rglob("escaped.txt"))


def test_user_errors(tmp_path, aircraft_files, bird_files, encode):
    command = f"Type python -m jssl.data.prepare birdsnap --data_dir={tmp_path} --archive=FILE"
    for make in (lambda: source("birdsnap", tmp_path, ""), lambda: prepare("birdsnap", tmp_path)):
        with pytest.raises(UserError) as caught:
            make()
        assert str(caught.value).endswith(command)
    with pytest.raises(UserError, match="No such file"):
        prepare("birdsnap", str(tmp_path), str(tmp_path / "none.tgz"))
    archive = pack(tmp_path / "a.tgz", aircraft_files)
    with pytest.raises(UserError, match="holds 0 files species.txt, expected one: it is not the"):
        prepare("birdsnap", str(tmp_path), str(archive))
    with pytest.raises(UserError, match="'cifar10' is prepared by TFDS; --archive is for fgvc"):
        prepare("cifar10", str(tmp_path), str(archive))
    lists = {name: text for name, text in bird_files.items() if name.endswith(".txt")}
    with pytest.raises(UserError, match="lacks 6 of the 6 pictures of its split 'train', the fi"):
        prepare("birdsnap", str(tmp_path), str(pack(tmp_path / "c.tgz", lists)))
    prepare("fgvc_aircraft", str(tmp_path), str(archive))
    with pytest.raises(UserError, match="has no split 'validation': Choices: test, train, tr"):
        source("fgvc_aircraft", tmp_path, "validation")
    images = tmp_path / "fgvc_aircraft" / "data" / "images"
    (images / "1025795.jpg").write_bytes(encode(np.zeros((BANNER, 9, 3), np.uint8)))
    with pytest.raises(data.PictureError, match="is 20 pixels high; expected more than the 20 of"):
        source("fgvc_aircraft", tmp_path, "train")[1]
    (images / "1025795.jpg").unlink()
    with pytest.raises(UserError, match="lacks 1 of the 6 pictures of its split 'train', the fir"):
        source("fgvc_aircraft", tmp_path, "train")
    (tmp_path / "fgvc_aircraft" / "data" / "variants.txt").unlink()
    with pytest.raises(UserError, match="exists, but lacks data/variants.txt or data/images_var"):
        prepare("fgvc_aircraft", str(tmp_path), str(archive))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
def test_truncated_archives(tmp_path, compress, aircraft_files):
    full = gzip.decompress(pack(tmp_path / "a.tar.gz", aircraft_files).read_bytes())
    content = compress(full)
    for part in (0.2, 0.5, 0.9)[: 2 if compress is bytes else 3]:  # a tar's end is padding
        (tmp_path / "cut.tar").write_bytes(content[: int(part * len(content)) - 7])
        with pytest.raises(UserError) as caught:
            prepare("fgvc_aircraft", str(tmp_path / "sets"), str(tmp_path / "cut.tar"))
        message = str(caught.value)
        assert "is cut short or damaged, as of a broken download" in message or "lacks" in message
        assert "\n" not in message and not list((tmp_path / "sets").glob(".*"))


def test_a_tar_cut_between_two_files(tmp_path, bird_files):
    """Nothing else in it shows that pictures are missing."""
    full = gzip.decompress(pack(tmp_path / "b.tar.gz", bird_files).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(full)) as tar:
        places = [member.offset for member in tar.getmembers()]
    (tmp_path / "cut.tar").write_bytes(full)
    prepare("birdsnap", str(tmp_path / "whole"), str(tmp_path / "cut.tar"))
    (tmp_path / "cut.tar").write_bytes(full[: places[-1]])
    with pytest.raises(UserError, match="is cut short or damaged, as of a broken download: it has"):
        prepare("birdsnap", str(tmp_path / "sets"), str(tmp_path / "cut.tar"))


def test_lists_in_latin_1(tmp_path, aircraft_files, encode):
    words = ("Fokker é", "An-12", "Cessna 172")
    files = {
        name: content.replace(b"707-320", words[0].encode("latin-1"))
        for name, content in aircraft_files.items()
    }
    prepare("fgvc_aircraft", str(tmp_path), str(pack(tmp_path / "a.tgz", files)))
    result = source("fgvc_aircraft", tmp_path, "train")
    assert result.class_names == words and len(result) == 6
    assert "lists in Latin-1: images_variant_test.txt, images_v" in data.describe(result)
    # A picture whose name is Latin-1 on the disk too.
    folder = tmp_path / "fgvc_aircraft" / "data"
    old = os.fsdecode("é1.jpg".encode("latin-1"))
    (folder / "images" / old).write_bytes(encode(plane(1), "JPEG"))
    with open(folder / "images_variant_train.txt", "ab") as file:
        file.write("é1 An-12\n".encode("latin-1"))
    result = source("fgvc_aircraft", tmp_path, "train")
    assert len(result) == 7 and result[6]["label"] == 1 and result.fingerprint()


def test_unreadable_lists(tmp_path, bird_files):
    prepare("birdsnap", str(tmp_path), str(pack(tmp_path / "b.tgz", bird_files)))
    path = tmp_path / "birdsnap" / "images.txt"
    good = path.read_bytes()
    for content, message in (
        (good.decode().encode("utf-16"), "is no text in UTF-8 or Latin-1: found a zero byte"),
        (good.replace(b"species_id", b"species"), "lacks the column species_id: found url, md5"),
        (b"", "lacks the column path: found nothing"),
        (good[:-12], "ends in the middle of line 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            source("birdsnap", tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbf" + good)
    assert len(source("birdsnap", tmp_path, "")) == 5
