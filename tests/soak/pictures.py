"""Faults of the data: damaged JPEGs in a folder, damaged shards of array_record."""

import io
import os
import shutil
import signal
import time
from unittest import mock

from PIL import Image
from soak import runs

from jssl.data import photos
from jssl.data.tfds_source import make_builder

COUNT, BAD = 400, (57, 131, 222, 390)  # one in a hundred


def jpeg(k):
    buffer = io.BytesIO()
    picture = photos.read(k % 16)[(k // 16) * 3 :][:64, :64]
    Image.fromarray(picture).save(buffer, "JPEG")
    return buffer.getvalue()


def folder_of_jpegs(lab):
    """Flags of a data set of 400 JPEGs, of which 4 are damaged in four ways."""
    root = lab.folder / "jpegs"
    if not root.exists():
        damage = dict(zip(BAD, (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:10],
                                lambda b: b[:-200] + b"\0" * 200), strict=True))  # fmt: skip
        for k in range(COUNT):
            path = root / ("cat", "dog")[k % 2] / f"{k:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damage.get(k, lambda b: b)(jpeg(k)))
    return ["--config.data.name=folder", f"--config.data.data_dir={root}"]


SKIP = "--config.data.on_error=skip"


def stop(lab, place, number):
    """The run stops at the first bad picture; with what it says to type it goes on to the end."""
    flags = folder_of_jpegs(lab)
    lab.whole("jpegs", *flags, SKIP)
    words = runs.last_words(lab.end(lab.start(place, *flags), place, status=2))
    assert "jpegs/" in words and f"type {SKIP}" in words, words
    runs.intact(place)
    assert "resumed at step" in lab.finish(place, "jpegs", *flags, SKIP)
    return words


def skip(lab, place, number):
    """Bad pictures are replaced by the next good ones, also by a run that was killed twice."""
    flags = [*folder_of_jpegs(lab), SKIP]
    _, life = lab.whole("jpegs", *flags)
    for _ in range(2):
        process, before = lab.start(place, *flags), runs.newest(place)
        begun = time.monotonic()
        while runs.newest(place) == before and process.poll() is None:
            assert time.monotonic() - begun < runs.PATIENCE
            time.sleep(0.01)
        time.sleep(lab.dice.uniform(0, life / 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    lab.finish(place, "jpegs", *flags)


def records(lab, folder):
    """Flags of a small CIFAR-10 in array_record, and its shard."""
    if not folder.exists():
        builder = make_builder("cifar10", str(folder))

        def png(k):
            buffer = io.BytesIO()
            Image.fromarray(photos.read(k % 16)[k : k + 32, :32]).save(buffer, "PNG")
            buffer.seek(0)
            return buffer

        def examples(count):
            for k in range(count):
                yield k, {"id": f"{k}", "image": png(k), "label": k % 10}

        splits = {"train": examples(240), "test": examples(20)}
        with mock.patch.object(type(builder), "_split_generators", lambda *_, **__: splits):
            builder.download_and_prepare()
    (shard,) = folder.rglob("*train.array_record*")
    return ["--config.data.name=cifar10", f"--config.data.data_dir={folder}"], shard


def damaged_shard(lab, place, damage):
    """The shard is damaged between two starts: an error that names it; put back, it goes on."""
    whole = lab.folder / "records"
    flags, _ = records(lab, whole)
    lab.whole("records", *flags)
    own = place.parent / f"{place.name}-records"
    shutil.copytree(whole, own)
    flags, shard = records(lab, own)
    half = runs.STEPS // 2
    lab.end(lab.start(place, *flags, f"--config.max_steps={half}"), place)
    good = shard.read_bytes()
    damage(shard)
    words = runs.last_words(lab.end(lab.start(place, *flags), place, status=2))
    assert shard.name in words, words
    step = runs.intact(place)
    shard.write_bytes(good)
    assert f"resumed at step {step}" in lab.finish(place, "records", *flags)
    return words.replace(str(own), "FOLDER")


def truncated_shard(lab, place, number):
    share = (0.999, 0.5, 0.0)[number]
    return damaged_shard(lab, place, lambda p: os.truncate(p, int(share * p.stat().st_size)))


def flipped_shard(lab, place, number):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[lab.dice.randrange(len(data) // 8, len(data) // 2)] ^= 1 << lab.dice.randrange(8)
        path.write_bytes(data)

    return damaged_shard(lab, place, flip)
