"""VOC's, COCO's and SBD's files: golden boxes, and every refusal."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jssl.data import dense_files, plain_mat
from jssl.data.decode import PictureError
from jssl.data.dense_coco import CocoFolder
from jssl.data.dense_folder import JoinedDense, VocFolder
from jssl.errors import UserError

HEIGHT, WIDTH = 40, 50
OBJECT = """<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>
 <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
 <part><name>head</name>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
DOG = OBJECT.format(name="dog", difficult=0, x1=1, y1=11, x2=50, y2=30)
CAT = OBJECT.format(name="cat", difficult=1, x1="3.5", y1=4, x2=5, y2=6)
ZEBRA = DOG.replace("dog", "zebra")


def xml(objects, *, before="", width=WIDTH):
    size = f"<size><width>{width}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"{before}<annotation>{size}{objects}</annotation>"


def write_picture(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (9, 8, 7)).save(path)


def write_mask(path, mask, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    if mode == "P":
        picture.putpalette([level for i in range(256) for level in (255 - i, i // 2, 7)])
    picture.convert(mode).save(path)


def square(value):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:9, 6:20] = value
    mask[4, 6:20] = 255
    return mask


@pytest.fixture
def voc(tmp_path):
    """VOC2007 with a dog and a cat in a, nothing in b, another dog in c of split test."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind).mkdir(parents=True)
        (root / "ImageSets" / kind / "train.txt").write_text("a\nb\n")
        (root / "ImageSets" / kind / "val.txt").write_text("c\n")
    (root / "Annotations").mkdir()
    for name, objects in (("a", DOG + CAT), ("b", ""), ("c", DOG)):
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(xml(objects))
        write_mask(root / "SegmentationClass" / f"{name}.png", square(12))
    return root


def set_xml(root, text, name="a"):
    (root / "Annotations" / f"{name}.xml").write_text(text)


@pytest.mark.quick
def test_boxes_of_voc_start_at_0_and_parts_are_no_objects(voc):
    source = VocFolder(voc, "train", masks=True)
    assert len(source) == 2 and source.num_classes == 20
    example = source[0]
    assert example["boxes"].tolist() == [[0, 10, 50, 30], [2.5, 3, 5, 6]]
    assert example["boxes"].dtype == np.float32 and example["label"].dtype == np.int32
    assert [source.class_names[k] for k in example["label"]] == ["dog", "cat"]
    assert example["difficult"].tolist() == [False, True]
    assert example["image"].shape == (HEIGHT, WIDTH, 3) and example["index"] == 0
    np.testing.assert_array_equal(example["mask"], square(12))
    assert source[1]["boxes"].shape == (0, 4) and source[1]["label"].shape == (0,)
    assert "mask" not in VocFolder(voc, "train")[0]


def test_the_folder_above_is_searched_and_own_classes_are_those_of_all_splits(voc, tmp_path):
    assert VocFolder(tmp_path, "val").root == voc
    assert VocFolder(tmp_path / "VOCdevkit", "val").names == ("c",)
    before = VocFolder(voc, "train").fingerprint()
    set_xml(voc, xml(ZEBRA), "c")
    source = VocFolder(voc, "train")
    assert source.class_names == ("cat", "dog", "zebra")
    assert source[0]["label"].tolist() == [1, 0]
    assert source.fingerprint() != before
    assert source.fingerprint() == VocFolder(voc, "train").fingerprint()
    only_masks = VocFolder(voc, "train", boxes=False, masks=True, classes=list("abcdefghijkl"))
    assert only_masks[0]["boxes"].shape == (0, 4) and only_masks[0]["mask"].max() == 255
    with pytest.raises(UserError, match="a.xml' has the class 'dog': did you mean 'dogs'"):
        VocFolder(voc, "train", classes=("cat", "dogs"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(DOG, before='<!DOCTYPE a [<!ENTITY b "c">]>'), "has <!DOCTYPE>: expected XML without"),
        (xml(DOG)[:-5], "is no XML in UTF-8"),
        (xml(DOG * 65), "has 65 objects: expected at most 64"),
        (xml(DOG.replace("<xmin>1<", "<xmin>0<")), "a box outside its picture of 40 x 50 pixels"),
        (xml(DOG.replace("<xmax>50<", "<xmax>51<")), r"found \(0, 10, 51, 30\)"),
        (xml(DOG.replace("<ymax>30<", "<ymax>10<")), "has an empty box"),
        (xml(DOG.replace("<ymax>30<", "<ymax>nan<")), "<ymax> 'nan': expected a number"),
        (xml(DOG.replace("<difficult>0<", "<difficult>2<")), "<difficult> '2': expected 0 or 1"),
        (xml(DOG.replace("name", "nom")), "an object without <name> or <bndbox>"),
        (xml("<a>" + "x" * 2**20 + "</a>"), "bytes; expected at most 1,048,576"),
    ],
)
def test_a_wrong_annotation_is_refused_by_name(voc, text, message):
    set_xml(voc, text)
    with pytest.raises(UserError, match=message) as caught:
        VocFolder(voc, "train")
    assert "a.xml" in str(caught.value)


def test_an_entity_in_another_encoding_is_refused(voc):
    text = xml(DOG, before='<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a>')
    (voc / "Annotations" / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match="is no XML in UTF-8"):
        VocFolder(voc, "train")


def test_a_picture_smaller_than_its_boxes_is_refused(voc):
    write_picture(voc / "JPEGImages" / "a.jpg", width=49)  # the annotation says 50
    with pytest.raises(PictureError, match="a.xml' has a box outside its picture of 40 x 49"):
        VocFolder(voc, "train")[0]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "~/a", "x\\a", "x/../../a"])
def test_names_stay_in_the_folder(voc, name):
    (voc / "ImageSets" / "Main" / "train.txt").write_text(f"{name}\n")
    with pytest.raises(UserError, match="is no file inside"):
        VocFolder(voc, "train")


def test_links_stay_in_the_folder(voc, tmp_path):
    outside = tmp_path / "outside.jpg"
    (voc / "JPEGImages" / "a.jpg").rename(outside)
    (voc / "JPEGImages" / "a.jpg").symlink_to(outside)
    with pytest.raises(UserError, match="is a link out of"):
        VocFolder(voc, "train")
    with pytest.raises(UserError, match="is no file inside"):
        VocFolder(voc, "../../train")


def test_what_is_missing_is_named_with_its_archive(voc, tmp_path):
    with pytest.raises(UserError, match="VOCtrainval_11-May-2012.tar into"):
        VocFolder(tmp_path / "nowhere", "train", year=2012)
    with pytest.raises(UserError, match=r"test.txt'.*Choices: train, val .*VOCtest_06-Nov-2007"):
        VocFolder(voc, "test")
    (voc / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(UserError, match="Mask .*a.png' is missing. Unpack VOCtrainval_06-Nov"):
        VocFolder(voc, "train", masks=True)
    (voc / "Annotations" / "b.xml").unlink()
    with pytest.raises(UserError, match="b.xml' are missing"):
        VocFolder(voc, "train")
    (voc / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match="b.jpg' of split 'train' is missing"):
        VocFolder(voc, "train")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a  1\nb -1\n")
    with pytest.raises(UserError, match="has the line 'a  1': expected one name a line"):
        VocFolder(voc, "train")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="2 names, 1 different ones"):
        VocFolder(voc, "train")


def test_wrong_masks_are_refused_by_name(voc):
    source, path = VocFolder(voc, "train", masks=True), voc / "SegmentationClass" / "a.png"
    write_mask(path, square(21))
    with pytest.raises(PictureError, match="a.png' has the index 21: expected 0"):
        source[0]
    write_mask(path, square(1)[:, 1:])
    with pytest.raises(PictureError, match="is 40 x 49 pixels .* 40 x 50"):
        source[0]
    write_mask(path, square(1), mode="RGB")
    with pytest.raises(PictureError, match="is PNG with mode RGB"):
        source[0]
    write_mask(path, square(1), mode="L")
    np.testing.assert_array_equal(source[0]["mask"], square(1))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(PictureError, match="a.png' cannot be decoded"):
        source[0]


def write_sbd(path, mask, *, compressed=True, name="GTcls"):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty(2, object)
    cells[:] = [np.eye(2), np.eye(3)]
    savemat(path, {name: {"Boundaries": cells, "Segmentation": mask}}, do_compression=compressed)


def test_train_aug_is_sbd_and_train_without_val(voc, tmp_path):
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    for name, value in (("b", 3), ("c", 4), ("d", 5), ("e", 6)):
        write_sbd(sbd / "cls" / f"{name}.mat", square(value), compressed=value < 5)
        write_picture(voc / "JPEGImages" / f"{name}.jpg")
        set_xml(voc, xml(""), name)
    (sbd / "train.txt").write_text("b\nc\n")
    (sbd / "val.txt").write_text("d\ne\n")
    source = VocFolder(voc, "train_aug", masks=True, sbd=tmp_path)
    assert source.names == ("a", "b", "d", "e")  # c is in VOC's val
    values = [np.unique(source[i]["mask"]).tolist() for i in range(4)]
    assert values == [[0, 12, 255], [0, 12, 255], [0, 5, 255], [0, 6, 255]]  # a, b: VOC's own
    source = VocFolder(voc, "sbd_train", masks=True, sbd=sbd)
    assert source.names == ("b", "c") and source[0]["mask"].max() == 255
    assert np.unique(source[0]["mask"]).tolist() == [0, 3, 255]
    with pytest.raises(UserError, match="expected sbd=FOLDER, masks=True"):
        VocFolder(voc, "train_aug", masks=True)
    with pytest.raises(UserError, match="Unpack benchmark.tgz"):
        VocFolder(voc, "train_aug", masks=True, sbd=voc)


def test_wrong_masks_of_sbd_are_refused(tmp_path, monkeypatch):
    path, size = tmp_path / "a.mat", (HEIGHT, WIDTH)
    read = dense_files.read_sbd_mask
    for name, mask, message in (
        ("other", square(1), "it has no GTcls"),
        ("GTcls", square(21), "has the index 21"),
        ("GTcls", square(1)[1:], "is 39 x 50 pixels"),
        ("GTcls", square(1) / 2, "Segmentation is float64"),
    ):
        write_sbd(path, mask, name=name)
        with pytest.raises(PictureError, match=message):
            read(path, num_classes=20, size=size)
    data = path.read_bytes()
    for damaged in (data[:200], data[:128], b"MATLAB 7.3" + data[10:], b"\0" * 300):
        path.write_bytes(damaged)
        with pytest.raises(PictureError, match="a.mat' cannot be read"):
            read(path, num_classes=20, size=size)
    monkeypatch.setattr(dense_files, "MAX_MASK", 10_000)
    write_sbd(path, np.zeros((200, 200), np.uint8))
    assert path.stat().st_size < 1000
    with pytest.raises(PictureError, match="it unpacks to more than 10,000 bytes"):
        read(path, num_classes=20, size=(200, 200))
    # Several small ones count together.
    savemat(path, {f"x{i}": np.zeros((70, 70), np.uint8) for i in range(3)}, do_compression=True)
    with pytest.raises(PictureError, match="it unpacks to more than"):
        read(path, num_classes=20, size=(200, 200))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8", "i8", ">f8"])
def test_matrices_are_those_that_scipy_writes(tmp_path, dtype, compressed):
    matrix = np.random.default_rng(0).integers(0, 100, (7, 5)).astype(dtype)
    path = tmp_path / "a.mat"
    cells = np.empty((2, 1), object)
    cells[:, 0] = ["text", np.eye(3)]
    content = {"before": np.arange(5), "GTcls": {"Boundaries": cells, "Segmentation": matrix,
                                                 "a": matrix[:0]}}  # fmt: skip
    savemat(path, content, do_compression=compressed)
    data = path.read_bytes()
    found = plain_mat.read_field(data, "GTcls", "Segmentation", max_bytes=10**6)
    np.testing.assert_array_equal(found, matrix)
    assert found.dtype.kind == matrix.dtype.kind
    for variable, field, message in (
        ("GTcls", "other", "it has no field other"),
        ("GTcls", "Boundaries", "Boundaries is no matrix of real numbers"),
        ("before", "a", "before is no struct of 1 x 1"),
    ):
        with pytest.raises(ValueError, match=message):
            plain_mat.read_field(data, variable, field, max_bytes=10**6)


def test_damage_of_a_mat_file_is_an_error_or_harmless(tmp_path):
    path = tmp_path / "a.mat"
    write_sbd(path, square(4), compressed=False)
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(1000):  # scipy.io.loadmat ends the process within the first hundreds
        damaged = bytearray(data)
        for place in rng.integers(128, 700, 2):
            damaged[place] = rng.integers(256)
        try:
            matrix = plain_mat.read_field(bytes(damaged), "GTcls", "Segmentation", max_bytes=10**6)
            assert matrix.size * matrix.itemsize <= len(data)
        except ValueError:
            refused += 1
    assert refused > 200
    for end in range(128, len(data) - 8, 8):
        with pytest.raises(ValueError):
            plain_mat.read_field(data[:end], "GTcls", "Segmentation", max_bytes=10**6)


def coco(tmp_path, change=lambda content: None):
    content = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [10, 20.5, 30, 10], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 50.01, 40], "iscrowd": 1},
        ],
    }
    change(content)
    for name in ("a", "b"):
        write_picture(tmp_path / "val" / f"{name}.jpg")
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return CocoFolder(tmp_path, "val")


def test_boxes_of_coco_are_corner_and_size(tmp_path):
    source = coco(tmp_path)
    assert source.class_names == ("person", "dog") and source.names == ("a.jpg", "b.jpg")
    assert source[0]["boxes"].shape == (0, 4)
    example = source[1]
    assert example["boxes"].tolist() == [[10, 20.5, 40, 30.5], [0, 0, 50, 40]]  # clipped
    assert example["label"].tolist() == [1, 0] and example["difficult"].tolist() == [False, True]
    joined = JoinedDense([source, source])
    assert len(joined) == 4 and joined[3]["index"] == 3 and not joined.train_difficult
    np.testing.assert_array_equal(joined[3]["boxes"], example["boxes"])
    assert joined.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("annotations", 0, "bbox"), [1, 2, 3], "has bbox .*: expected four numbers"),
        (("annotations", 0, "bbox"), [1, 2, float("nan"), 4], "expected four numbers"),
        (("annotations", 0, "bbox"), [1, 2, 0, 4], "has an empty box of 'b.jpg'"),
        (("annotations", 0, "category_id"), 99, "is no list of instances of COCO: KeyError 99"),
        (("annotations", 0, "image_id"), [1], "is no list of instances of COCO: TypeError"),
        (("annotations",), None, "is no list of instances of COCO"),
        (("categories", 0, "name"), "person", "two categories of one name"),
        (("images", 0, "file_name"), "../b.jpg", "is no file inside"),
        (("images", 0, "file_name"), "c.jpg", "c.jpg' of .* is missing"),
    ],
)
def test_wrong_files_of_coco_are_refused(tmp_path, place, value, message):
    def change(content):
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    with pytest.raises(UserError, match=message):
        coco(tmp_path, change)


def test_what_coco_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match="No file .*instances_val.json'. Unpack"):
        CocoFolder(tmp_path, "val")
    source = coco(tmp_path)
    write_picture(tmp_path / "val" / "b.jpg", width=45)
    with pytest.raises(PictureError, match="b.jpg' has a box outside its picture of 40 x 45"):
        source[1]
    file = tmp_path / "annotations" / "instances_val.json"
    for text in ("{", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(UserError, match="is no JSON"):
            CocoFolder(tmp_path, "val")
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(UserError, match="No folder .*val'"):
        CocoFolder(tmp_path, "val")
