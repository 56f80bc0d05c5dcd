"""Unusable pictures: the run stops with their name, or skips, logs and counts them."""

import numpy as np
import pytest
import tifffile
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data import fetch
from jssl.data.build import DEFAULTS
from jssl.data.fetch import Problems, in_words
from jssl.errors import UserError


@pytest.fixture(autouse=True)
def no_warnings_logged(monkeypatch):
    monkeypatch.setattr(fetch, "_logged", set())


@pytest.fixture
def damaged(class_folder, encode):
    """Of cat/0..5 and dog/0..5: cat/2 truncated, cat/3 one pixel, dog/5 no picture at all."""
    train = class_folder / "train"
    full = (train / "cat" / "2.png").read_bytes()
    (train / "cat" / "2.png").write_bytes(full[:40])
    (train / "cat" / "3.png").write_bytes(encode(np.zeros((1, 1, 3), np.uint8)))
    (train / "dog" / "5.png").write_bytes(b"hello")
    return class_folder


def source(root, on_error):
    config = ConfigDict({**DEFAULTS, "name": "folder", "data_dir": str(root), "on_error": on_error})
    return data.make_source(config, "train")


def epoch(root, **options):
    iterator = data.train_batches(source(root, "skip"), batch_size=12, seed=0, **options)
    batch = next(iterator)
    iterator.close()
    return batch, iterator.problems


@pytest.mark.parametrize("workers", [0, 1])
def test_stop_raises_with_the_picture_and_advice(damaged, workers):
    iterator = data.train_batches(source(damaged, "stop"), batch_size=12, seed=0, workers=workers)
    message = r"^Picture '.*(cat/[23]|dog/5).png' .* type --config.data.on_error=skip\.$"
    for _ in range(2):  # asked again it fails again: the step is not passed over
        with pytest.raises(data.PictureError, match=message):
            next(iterator)
    assert iterator.next_step == 0
    with pytest.raises(data.PictureError, match="cat/2.png' cannot be decoded"):
        list(data.eval_batches(source(damaged, "stop"), batch_size=12))


def test_skip_takes_the_next_good_example_with_its_label(damaged):
    batch, problems = epoch(damaged)
    order = data.shuffled(0, 0, 12)
    stands_for = {2: 4, 3: 4, 11: 0}  # the next good one, around the end
    expected = [stands_for.get(int(i), int(i)) for i in order]
    assert batch["index"].tolist() == expected
    assert batch["label"].tolist() == [i // 6 for i in expected]
    # The pixels are those of the example named, and none is black for want of a picture.
    levels = [10 * (i // 6) + i % 6 for i in expected]
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], levels)
    report = problems.report()
    assert set(report) == {"skipped"} and report["skipped"]["count"] == 3
    named = " ".join(report["skipped"]["first"])
    assert all(name in named for name in ("cat/2.png", "cat/3.png", "dog/5.png"))


def test_skips_are_counted_and_logged_once(damaged, caplog):
    logging.get_absl_logger().propagate = True
    iterator = data.train_batches(source(damaged, "skip"), batch_size=12, seed=0)
    for _ in range(3):
        next(iterator)
    iterator.close()
    assert iterator.problems.report()["skipped"]["count"] == 3
    lines = [r.getMessage() for r in caplog.records if "skipped and replaced" in r.getMessage()]
    assert len(lines) == 3 and sum("cat/2.png" in line for line in lines) == 1


def test_skips_in_workers_are_counted(damaged):
    batch, problems = epoch(damaged, workers=1)
    expected, _ = epoch(damaged)
    np.testing.assert_array_equal(batch["image"], expected["image"])
    assert problems.report()["skipped"]["count"] == 3


def test_skip_with_host_crops(damaged):
    batch, problems = epoch(damaged, transform=data.HostCrop(4, views=2))
    assert batch["image"].shape == (12, 2, 4, 4, 3)
    assert problems.report()["skipped"]["count"] == 3
    levels = [10 * (i // 6) + i % 6 for i in batch["index"]]
    np.testing.assert_array_equal(batch["image"][:, 1, 0, 0, 0], levels)


def test_evaluation_masks_skipped_pictures(damaged):
    sweep = data.eval_batches(source(damaged, "skip"), batch_size=8)
    result = list(sweep)
    counted = np.concatenate([b["index"][b["mask"]] for b in result])
    np.testing.assert_array_equal(counted, [0, 1, 4, 5, 6, 7, 8, 9, 10])
    assert sweep.problems.report()["skipped"]["count"] == 3


def test_no_usable_picture_is_an_error(class_folder):
    for path in (class_folder / "train").rglob("*.png"):
        path.write_bytes(b"hello")
    with pytest.raises(
        UserError, match="no usable picture among 12 in a row; the first: Picture '"
    ):
        next(data.train_batches(source(class_folder, "skip"), batch_size=2, seed=0))


def test_unequal_sizes_are_an_error(class_folder, encode):
    path = class_folder / "train" / "cat" / "0.png"
    path.write_bytes(encode(np.zeros((5, 9, 3), np.uint8)))
    message = r"found \(5, 9, 3\) and \(8, 8, 3\).*host_crop=torchvision or .*image_size=N"
    with pytest.raises(UserError, match=message):
        next(data.train_batches(source(class_folder, "stop"), batch_size=12, seed=0))


def test_conversions_are_counted_by_kind(class_folder, encode):
    train = class_folder / "train"
    grey = Image.new("L", (8, 8), 9)
    (train / "cat" / "0.png").write_bytes(encode(grey))
    (train / "cat" / "1.png").write_bytes(encode(grey))
    (train / "dog" / "0.png").write_bytes(encode(Image.new("I;16", (8, 8), 4096)))
    (train / "dog" / "1.png").write_bytes(encode(Image.new("CMYK", (8, 8)), "JPEG"))
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    (train / "dog" / "2.png").write_bytes(
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    batch, problems = epoch(class_folder)
    report = problems.report()
    assert {kind: entry["count"] for kind, entry in report.items()} == {
        "grey": 3,
        "16-bit": 1,
        "CMYK": 1,
        "palette": 1,
        "frames": 1,
    }
    assert report["CMYK"]["first"][0].endswith("dog/1.png")
    rows = batch["index"].tolist()
    assert batch["image"][rows.index(0), 0, 0].tolist() == [9, 9, 9]
    assert batch["image"][rows.index(6), 0, 0].tolist() == [16, 16, 16]


def test_report_keeps_the_first_ten_names():
    problems = Problems("mine", 100)
    problems.add([("skipped", i, f"picture {i}") for i in range(50)])
    report = problems.report()["skipped"]
    assert report == {"count": 50, "first": [f"picture {i}" for i in range(10)]}


def test_dropped_bands_are_counted_and_logged_once(class_folder, encode, caplog):
    """Near infrared in the fourth band of two pictures, alpha in that of another, four epochs."""
    four = np.dstack([np.full((8, 8, 3), 7, np.uint8), np.full((8, 8), 99, np.uint8)])
    folder = class_folder / "train" / "cat"
    for name, extra in (("0", 0), ("1", 0), ("2", 2)):
        tifffile.imwrite(folder / f"{name}.tif", four, photometric="rgb", extrasamples=[extra])
        (folder / f"{name}.png").unlink()
    logging.get_absl_logger().propagate = True
    iterator = data.train_batches(source(class_folder, "stop"), batch_size=12, seed=0)
    for _ in range(4):
        batch = next(iterator)
    iterator.close()
    for _ in range(2):  # evaluations of the same pictures say nothing more
        list(data.eval_batches(source(class_folder, "stop"), batch_size=12))
    report = iterator.problems.report()
    assert {kind: entry["count"] for kind, entry in report.items()} == {"extra band": 2, "alpha": 1}
    lines = [r.getMessage() for r in caplog.records if "converted" in r.getMessage()]
    assert len(lines) == 2
    assert sum("bands after red, green and blue, such as near infrared" in x for x in lines) == 1
    message = in_words(report)
    assert "2: bands after red, green and blue, such as near infrared, were dropped (the" in message
    assert "1: transparency was dropped (the first: '" in message
    rows = np.flatnonzero(batch["index"] < 3)
    assert (batch["image"][rows] == 7).all()


def test_report_is_formatted_in_one_line(damaged):
    _, problems = epoch(damaged)
    message = in_words(problems.report())
    assert (
        message.startswith("3: skipped and replaced (the first: Picture '") and "\n" not in message
    )
