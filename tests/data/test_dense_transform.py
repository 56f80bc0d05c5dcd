"""Flips, scales and crops of boxes against masks and Pillow; boxes of TFDS's records."""

import io
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage

from jssl.data import cutouts
from jssl.data.decode import PictureError
from jssl.data.dense_folder import JoinedDense, VocFolder
from jssl.data.dense_transform import (
    MOCO_SIDES,
    DetectionTransform,
    SegmentationTransform,
    dense_batch,
    flip,
    resize,
    shorter_side,
)
from jssl.data.tfds_source import make_builder
from jssl.data.voc_objects import VocBoxSource, voc_boxes
from jssl.errors import UserError


def example_of(index=0, size=64, height=None):
    made = cutouts.scene("train", index, size=size)
    kept = slice(0, height)
    return {"image": made.image[kept], "boxes": made.boxes.astype(np.float32),
            "label": made.labels.astype(np.int32), "difficult": made.difficult,
            "mask": made.mask[kept], "index": np.int32(index)}  # fmt: skip


def boxes_of(mask):
    regions, _ = ndimage.label((mask > 0) & (mask < 255))
    return sorted((x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(regions))


def as_tuples(boxes):
    return sorted(map(tuple, np.asarray(boxes).tolist()))


@pytest.mark.quick
@pytest.mark.parametrize("index", range(4))
def test_a_flipped_box_is_that_of_the_flipped_mask(index):
    example = example_of(index)
    flipped = flip(example)
    assert as_tuples(flipped["boxes"]) == boxes_of(flipped["mask"])
    np.testing.assert_array_equal(flipped["image"], example["image"][:, ::-1])
    twice = flip(flipped)
    for key, value in example.items():
        np.testing.assert_array_equal(twice[key], value)


@pytest.mark.parametrize("index", range(4))
def test_a_scaled_box_is_that_of_the_scaled_mask(index):
    example = example_of(index)
    scaled = resize(example, 128, 192)  # whole factors, other ones for height and width
    assert as_tuples(scaled["boxes"]) == boxes_of(scaled["mask"])
    assert set(np.unique(scaled["mask"])) == set(np.unique(example["mask"]))  # nothing between
    expected = Image.fromarray(example["image"]).resize((192, 128), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(scaled["image"], np.asarray(expected))
    close = resize(example, 75, 91)
    for box, other in zip(as_tuples(close["boxes"]), boxes_of(close["mask"]), strict=True):
        assert np.abs(np.subtract(box, other)).max() <= 1.5


def test_sides_are_detectron2s():
    assert MOCO_SIDES == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    for (height, width, side), expected in {
        (375, 500, 480): (480, 640),
        (500, 333, 800): (1201, 800),
        (200, 500, 800): (533, 1333),
        (500, 486, 800): (823, 800),
    }.items():
        assert shorter_side(height, width, side, 1333) == expected


def test_a_batch_is_padded_and_depends_on_its_numbers_only():
    source = [example_of(i, height=48) for i in range(4)]
    for example in source:
        example["boxes"][:, 3] = np.minimum(example["boxes"][:, 3], 48)
    transform = DetectionTransform((48, 96), longest=128, canvas=(100, 130))
    batch = dense_batch(source, range(4), transform, seed=1, epoch=2)
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "image": ((4, 100, 130, 3), "uint8"),
        "size": ((4, 2), "int32"),
        "original": ((4, 2), "int32"),
        "index": ((4,), "int32"),
        "boxes": ((4, 64, 4), "float32"),
        "label": ((4, 64), "int32"),
        "difficult": ((4, 64), "bool"),
        "valid": ((4, 64), "bool"),
        "mask": ((4, 100, 130), "uint8"),
    }
    assert batch["valid"].sum(axis=1).tolist() == [len(e["label"]) for e in source]
    for i, (height, width) in enumerate(batch["size"]):
        assert not batch["image"][i, height:].any() and not batch["image"][i, :, width:].any()
        assert (batch["mask"][i, height:] == 255).all()
        assert (batch["mask"][i, :, width:] == 255).all()
        inside = batch["boxes"][i][batch["valid"][i]]
        assert (inside[:, [0, 2]] <= width).all() and (inside[:, [1, 3]] <= height).all()
        assert not batch["boxes"][i][~batch["valid"][i]].any()
    again = dense_batch(source, range(4), transform, seed=1, epoch=2)
    alone = dense_batch(source, [2], transform, seed=1, epoch=2)
    for key, value in batch.items():
        np.testing.assert_array_equal(again[key], value)
        np.testing.assert_array_equal(alone[key][0], value[2])


def test_every_side_and_both_directions_occur():
    example = example_of(0)
    transform = DetectionTransform((64, 80, 96), longest=96, canvas=(96, 96))
    outputs = [transform(example, np.random.default_rng(i)) for i in range(60)]
    assert {int(o["size"][0]) for o in outputs} == {64, 80, 96}
    plain = [o for o in outputs if o["size"][0] == 64]
    mirrored = [np.array_equal(o["image"][:64, :64], example["image"][:, ::-1]) for o in plain]
    straight = [np.array_equal(o["image"][:64, :64], example["image"]) for o in plain]
    assert any(mirrored) and any(straight) and sum(mirrored) + sum(straight) == len(plain)
    test = DetectionTransform.test(80, longest=96, canvas=(96, 96))
    results = [test(example, np.random.default_rng(i)) for i in range(4)]
    for result in results:
        np.testing.assert_array_equal(result["image"], results[0]["image"])
    np.testing.assert_allclose(results[0]["boxes"][0], example["boxes"][0] * 80 / 64)


def test_difficult_objects_can_be_left_out():
    example = example_of(1)
    assert example["difficult"][0]
    options = {"longest": 64, "canvas": (64, 64), "flips": False}
    all_of_them = DetectionTransform((64,), **options)(example, np.random.default_rng(0))
    others = DetectionTransform((64,), difficult=False, **options)(
        example, np.random.default_rng(0)
    )
    assert all_of_them["valid"].sum() == len(example["label"])
    assert others["valid"].sum() == np.sum(~example["difficult"]) and not others["difficult"].any()


def test_wrong_numbers_are_refused():
    with pytest.raises(UserError, match="does not hold a shorter side of 64"):
        DetectionTransform((32, 64), longest=96, canvas=(96, 63))
    with pytest.raises(UserError, match="expected one side or more"):
        DetectionTransform((), longest=96, canvas=(96, 96))
    with pytest.raises(UserError, match="expected crop >= 1"):
        SegmentationTransform(8, scales=(2.0, 1.0))
    transform = DetectionTransform((64,), longest=128, canvas=(64, 80))
    with pytest.raises(PictureError, match="Picture 0 has 64 x 128 pixels .* canvas, 64 x 80"):
        transform(example_of(0, height=32) | {"index": np.int32(0)}, np.random.default_rng(0))


def test_crops_of_a_segmentation():
    example = example_of(3)
    # The colour tells the place: without a scale the crop is found in the picture.
    rows, columns = np.mgrid[:64, :64]
    example["image"] = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    same = SegmentationTransform(40, scales=(1.0, 1.0))
    places = set()
    for i in range(30):
        out = same(example, np.random.default_rng(i))
        top, left, right = (int(v) for v in (*out["image"][0, 0, :2], out["image"][0, -1, 1]))
        places.add((top, left < right))
        mask = example["mask"][top : top + 40]
        mask = mask[:, left : left + 40] if left < right else mask[:, right : left + 1][:, ::-1]
        np.testing.assert_array_equal(out["mask"], mask)
        assert out["size"].tolist() == [40, 40]
    assert len({top for top, _ in places}) > 8 and {way for _, way in places} == {True, False}
    small = SegmentationTransform(80, scales=(0.5, 0.5))(example, np.random.default_rng(0))
    assert small["size"].tolist() == [32, 32] and small["image"].shape == (80, 80, 3)
    assert (small["mask"][32:] == 255).all() and (small["mask"][:, 32:] == 255).all()
    sizes = [SegmentationTransform(200)(example, np.random.default_rng(i))["size"][0]
             for i in range(40)]  # fmt: skip
    assert 32 <= min(sizes) < 45 and 115 < max(sizes) <= 128


FILE_BOXES = [(1, 1, 50, 40), (11, 3, 12, 39)]


def test_boxes_of_tfds_are_those_of_the_file():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(2, 501, 2)
        xs, ys = (np.sort(rng.integers(1, side + 1, 2)) for side in (width, height))
        box = np.array([ys[0], xs[0], ys[1], xs[1]], np.float32)
        bbox = box / np.array([height, width, height, width], np.float32)  # as TFDS keeps it
        found = voc_boxes({"objects": {"bbox": bbox[None]}}, int(height), int(width))
        assert found.tolist() == [[xs[0] - 1, ys[0] - 1, xs[1], ys[1]]]
    assert voc_boxes({"objects": {"bbox": np.zeros((0, 4))}}, 9, 9).shape == (0, 4)


@pytest.mark.parametrize("name", ["voc/2007", "voc/2012"])
def test_a_prepared_set_has_its_boxes(name, tmp_path):
    with pytest.raises(UserError, match="is not prepared"):
        VocBoxSource(name, "train", data_dir=str(tmp_path))
    builder = make_builder(name, str(tmp_path))
    file = io.BytesIO()
    Image.new("RGB", (50, 40)).save(file, "JPEG")

    def examples():
        for k, (x1, y1, x2, y2) in enumerate(FILE_BOXES):
            box = tfds.features.BBox(y1 / 40, x1 / 50, y2 / 40, x2 / 50)
            one = {"label": 3 + k, "is_difficult": bool(k), "bbox": box, "pose": 0,
                     "is_truncated": False}  # fmt: skip
            file.seek(0)
            yield str(k), {"image": io.BytesIO(file.getvalue()), "image/filename": f"{k}.jpg",
                           "objects": [one], "labels": [], "labels_no_difficult": []}  # fmt: skip

    generators = {"train": examples()}
    with mock.patch.object(type(builder), "_split_generators", lambda *_, **__: generators):
        builder.download_and_prepare()
    source = VocBoxSource(name, "train", data_dir=str(tmp_path))
    assert len(source) == 2 and source.num_classes == 20
    records = sorted((source[i] for i in range(2)), key=lambda example: int(example["label"][0]))
    assert [e["boxes"].tolist() for e in records] == [[[0, 0, 50, 40]], [[10, 2, 12, 39]]]
    assert [e["label"].tolist() for e in records] == [[3], [4]]
    assert [e["difficult"].tolist() for e in records] == [[False], [True]]
    joined = JoinedDense([source, source])
    assert len(joined) == 4 and joined.class_names[3] == "boat"
    for i in (3, -1):
        np.testing.assert_array_equal(joined[i]["boxes"], source[1]["boxes"])
        np.testing.assert_array_equal(joined.objects(i)["label"], source[1]["label"])
        assert joined[i]["index"] == 3
    with pytest.raises(IndexError):
        joined[4]
    batch = dense_batch(joined, [0, 3], DetectionTransform.test(80, longest=100, canvas=(80, 100)))
    assert batch["boxes"][0, 0].tolist() == (2 * source[0]["boxes"][0]).tolist()


def test_sets_of_other_classes_are_not_joined(tmp_path):
    root = cutouts.write(tmp_path / "cut", images={"train": 9, "val": 3, "test": 3}, size=48)
    own = VocFolder(root, "val")
    other = VocFolder(root, "val", classes=(*cutouts.CLASSES, "cow"))
    with pytest.raises(UserError, match="has other classes than 'voc:VOC2007'"):
        JoinedDense([own, other])


def test_wrong_sets_of_tfds_are_refused():
    with pytest.raises(UserError, match="'voc/2010' is none of the sets"):
        VocBoxSource("voc/2010", "train")
    with pytest.raises(UserError, match="test split has no boxes"):
        VocBoxSource("voc/2012", "test")
