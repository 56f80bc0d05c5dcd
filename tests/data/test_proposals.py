"""Proposals: their files, refused by name when damaged, and what a transform does to them."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import small_config
from scipy.io import savemat

from jssl.data import plain_mat, proposals
from jssl.data.cutout_source import CutoutSource
from jssl.data.decode import PictureError
from jssl.data.dense_folder import JoinedDense
from jssl.data.dense_transform import DetectionTransform, flip, resize
from jssl.errors import UserError
from jssl.run.dense import transform_of

BOXES = [np.array([[10, 5, 30, 25], [0, 0, 64, 64]]), np.zeros((0, 4)), np.array([[1, 2, 4, 9]])]


def source():
    return CutoutSource("val", size=64)


def write(path, pictures=None, **changes):
    names = source().names
    pictures = [BOXES[i % 3] for i in range(len(names))] if pictures is None else pictures
    arrays = {"names": names, "counts": [len(boxes) for boxes in pictures],
              "boxes": np.concatenate(pictures)}  # fmt: skip
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)


def test_proposals_of_a_folder_are_found_by_name(tmp_path):
    write(tmp_path / "cutouts_val.npz")
    arrays = dict(np.load(tmp_path / "cutouts_val.npz"))
    part = proposals.with_proposals(source(), str(tmp_path), "cutouts/val", most=2)
    # The order of the file is not that of the source; other pictures may be in it.
    turned = [BOXES[i % 3] for i in range(50)][::-1] + [BOXES[0]]
    names = [*arrays["names"][::-1].tolist(), "another"]
    np.savez(tmp_path / "one.npz", names=names, counts=[len(b) for b in turned],
             boxes=np.concatenate(turned))  # fmt: skip
    other = proposals.with_proposals(source(), str(tmp_path / "one.npz"), "any", most=2)
    for i in (0, 1, 2, 49):
        for found in (part, other):
            np.testing.assert_array_equal(found[i]["proposals"], BOXES[i % 3])
            np.testing.assert_array_equal(found[i]["image"], source()[i]["image"])
    assert part.fingerprint() == other.fingerprint() != source().fingerprint()
    assert len(part) == 50
    joined = JoinedDense([source(), CutoutSource("test", size=64)])
    assert joined.names[50] == "test_000000" and len(joined.names) == 150
    with pytest.raises(UserError, match="lack 100 of 150 pictures, 'test_000000' among them"):
        proposals.with_proposals(joined, str(tmp_path / "one.npz"), "any", most=2)


def test_what_is_missing_is_named(tmp_path):
    message = "cutouts_val.npz' or 'cutouts_val.mat'.*selective_search_data.tgz.*proposals=anchors"
    with pytest.raises(UserError, match=message):
        proposals.with_proposals(source(), str(tmp_path), "cutouts/val", most=2)
    write(tmp_path / "cutouts_val.npz")
    with pytest.raises(UserError, match="'val_000000' has 2 proposals: .*max_proposals=2"):
        proposals.with_proposals(source(), str(tmp_path), "cutouts/val", most=1)
    with pytest.raises(UserError, match="The pictures of other have no names"):
        proposals.with_proposals(SimpleNamespace(name="other"), str(tmp_path), "other/val", most=1)
    write(tmp_path / "cutouts_val.npz", [np.array([[0, 0, 65, 9]])] * 50)
    outside = proposals.with_proposals(source(), str(tmp_path), "cutouts/val", most=2)
    with pytest.raises(PictureError, match="proposals of val_000003' has a box outside .* 64 x 64"):
        outside[3]


@pytest.mark.parametrize(("changes", "message"), [
    ({"counts": [2] * 50}, "its counts do not add up to its 50 boxes"),
    ({"counts": [-1, *[1] * 49]}, "do not add up"),
    ({"counts": [1.5] * 50}, "counts float64"),
    ({"counts": [2**63 - 1] * 50}, "do not add up"),
    ({"boxes": None}, "it has no boxes"),
    ({"names": ["a"] * 50}, "it has a name twice"),
    ({"names": np.arange(50)}, "names int64"),
    ({"names": np.array(["a"] * 50, object)}, "not of numbers"),
    ({"boxes": np.ones((50, 3))}, r"boxes \[50, 3\]"),
    ({"boxes": np.full((50, 4), np.nan)}, "'val_000000' has a box that is empty, negative or"),
    ({"boxes": np.array([[0, 0, 5, 5]] * 49 + [[5, 0, 5, 9]])}, "'val_000048' has a box that is"),
])  # fmt: skip
def test_damaged_files_are_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "a.npz"
    write(path, **changes)
    with pytest.raises(UserError, match=f"a.npz' cannot be read: .*{message}"):
        proposals.read_proposals(path)


def test_cut_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    data = path.read_bytes()
    for end in range(0, len(data), len(data) // 20):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match="a.npz' cannot be read"):
            proposals.read_proposals(path)


def cells(values):
    result = np.empty((1, len(values)), object)
    result[0, :] = values
    return result


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "u2"])
def test_selective_search(tmp_path, dtype, compressed):
    """(y1, x1, y2, x2) that count from 1, the last pixel in the box, as py-faster-rcnn reads."""
    path = tmp_path / "voc_2007_test.mat"
    boxes = [np.array([[1, 2, 40, 50], [3, 4, 3, 4]], dtype), np.zeros((0, 4), dtype)]
    content = {"images": cells(["000002", "000001"]).T, "boxes": cells(boxes)}
    savemat(path, content, do_compression=compressed)
    found = proposals.read_proposals(path)
    assert found.names == ("000002", "000001")
    assert found.boxes[0].tolist() == [[1, 0, 50, 40], [3, 2, 4, 3]] and len(found.boxes[1]) == 0
    two = SimpleNamespace(name="voc", names=("000001", "000002"), num_classes=1, image_shape=None,
                          on_error="stop", __len__=lambda: 2)  # fmt: skip
    by_name = proposals._by_name([path], two.names)
    assert [len(by_name[name]) for name in two.names] == [0, 2]
    savemat(path, {"boxes": cells(boxes)}, do_compression=compressed)
    in_order = proposals._by_name([path], two.names)
    assert [len(in_order[name]) for name in two.names] == [2, 0]
    with pytest.raises(UserError, match="of 2 pictures do not name them"):
        proposals._by_name([path], ("000001",))


def test_damaged_cells_are_an_error_or_harmless(tmp_path):
    path, rng, refused = tmp_path / "a.mat", np.random.default_rng(0), 0
    content = {"images": cells(["000002", "000001"]), "boxes": cells([np.ones((2, 4))] * 2)}
    savemat(path, content)
    data = path.read_bytes()
    for _ in range(1000):
        damaged = bytearray(data)
        for place in rng.integers(128, len(data), 2):
            damaged[place] = rng.integers(256)
        try:
            plain_mat.read_cells(bytes(damaged), ("images", "boxes"), max_bytes=10**6)
        except ValueError:
            refused += 1
    assert refused > 200
    for end in range(136, len(data) - 8, 8):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match="a.mat' cannot be read"):
            proposals.read_proposals(path)
    for wrong, message in (
        ({"boxes": np.ones((2, 4))}, "boxes is no array of cells"),
        ({"boxes": cells(["a"])}, "no matrix of four columns"),
        ({"boxes": cells([np.ones((2, 3))])}, "no matrix of four columns"),
        ({**content, "images": cells(["a"])}, "2 cells of boxes and 1 names"),
        ({"other": np.ones(3)}, "it has no boxes"),
    ):
        savemat(path, wrong)
        with pytest.raises(UserError, match=f"a.mat' cannot be read: .*{message}"):
            proposals.read_proposals(path)


def test_proposals_are_flipped_and_scaled_with_the_picture():
    example = {**source()[0], "proposals": np.array([[10.0, 5, 30, 25], [0, 0, 64, 64]], "f4")}
    assert flip(example)["proposals"].tolist() == [[34, 5, 54, 25], [0, 0, 64, 64]]
    assert resize(example, 32, 128)["proposals"].tolist() == [[20, 2.5, 60, 12.5], [0, 0, 128, 32]]
    transform = DetectionTransform((128,), longest=128, canvas=(160, 128), most_proposals=3)
    # The boxes of the objects are a second set of proposals: both move alike.
    example["proposals"] = np.concatenate([example["proposals"], example["boxes"][:1]])
    seen = set()
    for seed in range(6):
        made = transform(example, np.random.default_rng(seed))
        np.testing.assert_array_equal(made["proposals"][2], made["boxes"][0])
        assert made["live"].tolist() == [True] * 3
        seen.add(tuple(made["proposals"][0].tolist()))
    assert seen == {(20, 10, 60, 50), (68, 10, 108, 50)}


def test_anchor_boxes_by_hand():
    """Every 16 px of a picture of 32 x 48, of two sizes and ratio 4: twice as high as the side."""
    config = small_config("fast_rcnn")
    config.augment.size = 64
    config.fast_rcnn.update({"anchor_sizes": (16.0, 40.0), "anchor_ratios": (4.0,),
                             "sides": (32,), "test_side": 32})  # fmt: skip
    transform = transform_of(config, train=False)
    example = {"image": np.zeros((64, 96, 3), np.uint8), "boxes": np.zeros((0, 4), "f4"),
               "label": np.zeros(0, int), "difficult": np.zeros(0, bool), "index": 0}  # fmt: skip
    made = transform(example, np.random.default_rng(0))
    assert made["size"].tolist() == [32, 48]
    expected = [
        [max(x - side / 4, 0), max(y - side, 0), min(x + side / 4, 48), min(y + side, 32)]
        for y in (0, 16) for x in (0, 16, 32) for side in (16, 40)
    ]  # fmt: skip
    # Room for 2 x 4 cells: a shorter side of 32, a longer one of 64.
    np.testing.assert_allclose(made["proposals"], expected + [[0] * 4] * 4)
    assert made["live"].tolist() == [True] * 12 + [False] * 4
