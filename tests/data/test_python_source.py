"""A Python object with `__len__` and `__getitem__` as data."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jssl import data
from jssl.data import PythonSource
from jssl.data.build import DEFAULTS
from jssl.data.items import MODES
from jssl.errors import UserError


class Items:
    """Like a torch Dataset: `len` and `[i]` only."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


class Tensor:
    """Like a tensor of torch: numpy sees it by `__array__` only."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_every_kind_of_picture_gives_the_same_pixels(colours, encode, tmp_path):
    png = encode(colours)
    path = tmp_path / "a.png"
    path.write_bytes(png)
    kinds = [colours, Image.fromarray(colours), png, path, str(path), Tensor(colours),
             {"bytes": png, "path": None}, {"bytes": None, "path": str(path)}]  # fmt: skip
    source = PythonSource(Items(kinds))
    assert isinstance(source, data.Source) and source.num_classes == 0 and source.class_names == ()
    for i in range(len(kinds)):
        example = source[i]
        np.testing.assert_array_equal(example["image"], colours)
        assert (example["label"], example["index"]) == (-1, i)
    lazy = [isinstance(source.encoded(i)["image"], data.Picture) for i in range(len(kinds))]
    assert lazy == [False, False, True, True, True, False, True, True]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_pillow_are_converted_as_pillow_does(mode, colours):
    picture = Image.fromarray(colours)
    picture = picture.convert("L").convert("PA") if mode == "PA" else picture.convert(mode)
    image = PythonSource([picture])[0]["image"]
    np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")))


def test_grey_arrays_become_three_channels(colours):
    image = PythonSource([colours[..., 0]])[0]["image"]
    np.testing.assert_array_equal(image, np.stack([colours[..., 0]] * 3, -1))


@pytest.mark.parametrize("form", [lambda p, l: (p, l), lambda p, l: [p, l],
                                  lambda p, l: {"image": p, "label": l}])  # fmt: skip
@pytest.mark.parametrize("kind", [int, np.int64, np.asarray, Tensor], ids=lambda k: k.__name__)
def test_labels_of_every_form(form, kind, colours):
    source = PythonSource(Items([form(colours, kind(i % 3)) for i in range(7)]))
    assert source.num_classes == 3 and source.class_names is None
    assert [int(source[i]["label"]) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_array_equal(data.labels_of(source), [0, 1, 2, 0, 1, 2, 0])


def test_names_of_classes_spare_reading_all_items(colours):
    class Counting(Items):
        reads = 0

        def __getitem__(self, index):
            type(self).reads += 1
            return super().__getitem__(index)

    items = Counting([(colours, i % 2) for i in range(1000)])
    assert PythonSource(items).num_classes == 2
    first, Counting.reads = Counting.reads, 0
    source = PythonSource(items, class_names=["cat", "dog", "cow"])
    assert first > 1000 and Counting.reads < 100
    assert (source.num_classes, source.class_names) == (3, ("cat", "dog", "cow"))
    items.classes = ["cat", "dog"]  # as torchvision has them
    assert PythonSource(items).class_names == ("cat", "dog")
    assert PythonSource(items, num_classes=0).class_names == ()
    assert PythonSource(items, label=None)[1]["label"] == -1


def test_other_keys(colours):
    items = [{"img": colours, "fine": i} for i in range(3)]
    message = r"Item 0 of 'python:list' is a mapping with the keys 'img', 'fine': expected 'image'"
    with pytest.raises(UserError, match=message):
        PythonSource(items)
    assert PythonSource(items, image="img", label="fine").num_classes == 3


def test_hugging_face_datasets_are_read(colours):
    datasets = pytest.importorskip("datasets")
    names = ["cat", "dog"]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    pictures = [Image.fromarray(colours), Image.fromarray(255 - colours)]
    stored = datasets.Dataset.from_dict({"image": pictures, "label": [1, 0]}, features=features)
    source = PythonSource(stored)
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(source[1]["image"], 255 - colours)
    assert [int(source[i]["label"]) for i in range(2)] == [1, 0]


GOOD = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"array float32 \[8,8,3\]: expected uint8.*ToTensor"),
        (Tensor(np.zeros((3, 8, 8), np.float32)), r"array float32 \[3,8,8\].*ToTensor"),
        (np.zeros((3, 8, 8), np.uint8), r"\[3,8,8\].*np.moveaxis\(x, 0, -1\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\[8,8,4\]: expected uint8 \[H,W,3\] or \[H,W\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\[2,8,8,3\]"),
        (np.zeros((8, 8, 3), np.int64), r"array int64"),
        (np.zeros((8, 8), bool), r"array bool"),
        (Image.new("F", (8, 8)), r"of mode 'F': expected one of 1, L,"),
        (Image.new("I;16", (8, 8)), r"of mode 'I;16'"),
        (None, r"is NoneType None: expected a picture"),
        (7, r"is int 7: expected a picture"),
        ((GOOD, 1, 2), r"is a tuple of 3: expected a picture"),
        ((GOOD, 1.0), r"label float 1.0: expected one whole number"),
        ((GOOD, True), r"label bool True"),
        ((GOOD, "cat"), r"label str 'cat'"),
        ((GOOD, np.array([0, 1])), r"label ndarray array\(\[0, 1\]\)"),
        ((GOOD, -2), r"label -2: expected a whole number from 0.*or -1 for none"),
        ((GOOD, 2**40), r"label 1099511627776"),
        ((GOOD, 10**7), r"label 10,000,000: expected .* below 1,000,000.*num_classes=N"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_item_is_refused_by_its_index(item, message):
    with pytest.raises(UserError, match=rf"^Item 2 of 'python:Items' .*{message}") as error:
        PythonSource(Items([(GOOD, 0), (GOOD, 1), item, (GOOD, 0)]))
    assert "\n" not in str(error.value)


def test_a_label_that_no_class_has():
    with pytest.raises(
        UserError, match="Item 1 .* label 2, but there are 2 classes: expected 0 to 1"
    ):
        PythonSource([(GOOD, 0), (GOOD, 2)], num_classes=2)
    source = PythonSource([(GOOD, 0), (GOOD, -1), GOOD], num_classes=2)
    assert [int(source[i]["label"]) for i in range(3)] == [0, -1, -1]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (7, "Found int as data: expected an object with __len__ and __getitem__"),
        ((x for x in "ab"), "Found generator as data.*Pass list"),
        ({1, 2}, "Found set as data"),
        (type("Negative", (Items,), {"__len__": lambda self: -1})([]), "have no length: .*>= 0"),
        (
            type("Lost", (Items,), {"__len__": lambda self: 1 / 0})([]),
            "no length: division by zero",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_that_are_no_data(items, message):
    with pytest.raises(UserError, match=message):
        PythonSource(items)


def test_an_item_that_raises_stops_or_is_skipped(tmp_path):
    bad = tmp_path / "cut.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    items = Items(
        [GOOD, KeyError("gone"), tmp_path / "none.png", bad, GOOD[:1], GOOD, GOOD + 1, GOOD]
    )
    source = PythonSource(items)
    expected = (r"Item 1 of 'python:Items' raises KeyError: 'gone'", "none.png' cannot be read",
                "cut.png' cannot be decoded", "Item 4 .* is 1 x 8 pixels")  # fmt: skip
    for index, message in enumerate(expected, 1):
        with pytest.raises(data.PictureError, match=message):
            source[index]
    batches = data.train_batches(source, batch_size=8, seed=0)
    with pytest.raises(data.PictureError, match="data.on_error=skip"):
        next(batches)
    batches.close()
    batches = data.train_batches(PythonSource(items, on_error="skip"), batch_size=8, seed=0)
    batch = next(batches)
    batches.close()
    assert set(batch["index"]) == {0, 5, 6, 7}
    assert batches.problems.report()["skipped"]["count"] == 4


def test_random_items_are_refused():
    class Random(Items):
        def __getitem__(self, index):
            return np.random.randint(0, 256, (8, 8, 3), np.uint8)

    with pytest.raises(UserError, match="Item 0 .* is another each time .* random transforms out"):
        PythonSource(Random(range(20)))


def test_the_fingerprint_follows_length_content_and_labels(tmp_path, encode):
    items = [(np.full((4, 4, 3), i, np.uint8), i % 2) for i in range(40)]
    first = PythonSource(items).fingerprint()
    assert PythonSource(Items(items)).fingerprint() == first
    changed = items[:7] + [(items[7][0] + 1, items[7][1])] + items[8:]
    other = items[:7] + [(items[7][0], 0)] + items[8:]
    prints = {first, *(PythonSource(x).fingerprint() for x in (items[:-1], changed, other))}
    assert len(prints) == 4
    assert PythonSource(items, label=None).fingerprint() not in prints
    path = tmp_path / "a.png"
    path.write_bytes(encode(items[0][0]))
    before = PythonSource([path]).fingerprint()
    path.write_bytes(encode(items[1][0]))
    assert PythonSource([path]).fingerprint() != before


def section(**keys):
    return ConfigDict({**DEFAULTS, "name": "python", **keys})


def test_the_object_is_there_within_provided_only(colours):
    items = [(colours, i % 2) for i in range(8)]
    for split in ("train", "probe", "test"):
        with pytest.raises(
            UserError, match="'python' is a Python object, which no command can read"
        ):
            data.make_source(section(), split)
    with data.provided(items):
        assert len(data.make_source(section(on_error="skip"), "train")) == 8
        assert data.make_source(section(on_error="skip"), "probe").on_error == "skip"
        assert not data.has_split(section(), "test")
        with pytest.raises(UserError, match="no 'test' split. Pass data={'train': ..., 'test'"):
            data.make_source(section(), "test")
    with data.provided({"train": items, "test": items[:1]}):
        test = data.make_source(section(), "test")
        assert data.has_split(section(), "test") and (len(test), test.num_classes) == (1, 2)
    with data.provided(items, labels="none"):
        assert data.make_source(section(), "train").num_classes == 0
    with pytest.raises(UserError, match="keys 'train', 'validation': expected 'train' and"):
        with data.provided({"train": items, "validation": items}):
            pass


def test_other_sources_are_data_too(class_folder):
    folder = data.FolderSource(str(class_folder), "train")
    with data.provided(folder) as source:
        assert source is folder
    with data.provided(folder, labels="none") as source:
        assert source.num_classes == 0 and isinstance(source.encoded(0)["image"], data.Picture)


def test_worker_processes_need_an_object_that_can_be_sent(colours):
    items = Items([colours] * 8)
    items.open = lambda: None
    with data.provided(items):
        assert len(data.make_source(section(), "train")) == 8
        with pytest.raises(UserError, match="cannot be sent to worker processes: .*data.workers=0"):
            data.make_source(section(workers=2), "train")
    del items.open
    with data.provided(items):
        assert len(data.make_source(section(workers=2), "train")) == 8
