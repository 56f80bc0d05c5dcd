"""Pictures with further arrays: synthetic scenes and video, a user's .npz files, batches."""

import contextlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from jssl import data
from jssl.data.build import DEFAULTS
from jssl.errors import UserError


def source(split="train", **values):
    return data.make_source(ConfigDict({**DEFAULTS, **values}), split)


@pytest.fixture(scope="module")
def scenes():
    return source(name="synthetic_scenes", num_examples=40)


@pytest.fixture(scope="module")
def video():
    return source(name="synthetic_video", num_examples=40)


def test_shapes_dtypes_and_protocol(scenes, video):
    expected = {
        "depth": ((32, 32, 1), np.float32),
        "normals": ((32, 32, 3), np.float32),
        "segmentation": ((32, 32), np.int32),
        "later": ((32, 32, 3), np.uint8),
        "flow": ((32, 32, 20), np.float32),
    }
    seen = set()
    for s in (scenes, video):
        assert isinstance(s, data.Source) and len(s) == 40 and s.num_classes == 10
        example = s[13]
        assert example["index"] == 13 and example["image"].shape == s.image_shape == (32, 32, 3)
        for key in set(example) & set(expected):
            assert (example[key].shape, example[key].dtype) == expected[key]
            seen.add(key)
    assert seen == set(expected)
    assert len(source("test", name="synthetic_video", num_examples=40)) == 10


def test_draws_are_fixed_and_differ_between_splits(scenes):
    again = source(name="synthetic_scenes", num_examples=40)
    assert again.fingerprint() == scenes.fingerprint()
    np.testing.assert_array_equal(again.arrays["depth"], scenes.arrays["depth"])
    test = source("test", name="synthetic_scenes", num_examples=160)
    assert np.abs(test.arrays["depth"] - scenes.arrays["depth"]).mean() > 0.1


def test_fingerprint_depends_on_every_array(scenes):
    arrays = {k: v.copy() for k, v in scenes.arrays.items()}
    arrays["segmentation"][3, 4, 5] += 1
    images, labels = scenes.images, scenes.labels
    changed = data.SceneSource("synthetic_scenes", images, labels, num_classes=10, arrays=arrays)
    assert changed.fingerprint() != scenes.fingerprint()


def test_normals_match_the_depth(scenes):
    """A normal is orthogonal to both tangents of the surface (right, down, depth)."""
    depth = 2 * scenes.arrays["depth"][..., 0].astype(np.float64)  # half a unit of wave a metre
    normals = scenes.arrays["normals"].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
    right = (depth[:, :, 2:] - depth[:, :, :-2])[:, 1:-1] / 2
    down = (depth[:, 2:] - depth[:, :-2])[:, :, 1:-1] / 2
    n = normals[:, 1:-1, 1:-1]
    # Towards the camera is against depth, up is against the rows.
    along_right = n[..., 0] - n[..., 2] * right
    along_down = -n[..., 1] - n[..., 2] * down
    assert np.abs(along_right).max() < 0.2 and np.abs(along_down).max() < 0.2
    assert np.abs(n[..., 0] + n[..., 2] * right).max() > 0.5  # the other sign would not do


def test_labels_are_quarters_of_the_height(scenes):
    labels = scenes.arrays["segmentation"]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    means = [scenes.arrays["depth"][0, ..., 0][labels[0] == k].mean() for k in range(4)]
    assert means == sorted(means)


def test_the_later_frame_is_the_frame_moved_by_the_flow(video):
    flow = video.arrays["flow"].reshape(40, 32, 32, 10, 2).mean(axis=(1, 2, 3))
    better, still = [], []
    for i in range(40):
        moved = np.rint(5 * flow[i]).astype(int)  # five frames later
        if np.abs(5 * flow[i] - moved).max() > 0.2:
            continue
        first, later = (x[i].astype(float) for x in (video.images, video.arrays["later"]))
        dx, dy = moved
        h, w = 32 - abs(dx), 32 - abs(dy)
        x0, y0 = max(dx, 0), max(dy, 0)
        there = later[y0 : y0 + w, x0 : x0 + h]
        here = first[max(-dy, 0) : max(-dy, 0) + w, max(-dx, 0) : max(-dx, 0) + h]
        better.append(np.abs(there - here).mean())
        still.append(np.abs(later - first).mean())
    assert len(better) >= 3 and np.mean(better) < 0.5 * np.mean(still)


def test_batches_carry_the_arrays(scenes):
    batches = data.train_batches(scenes, batch_size=8, seed=0)
    with contextlib.closing(batches):
        batch = next(batches)
    assert set(batch) == {"image", "label", "index", "depth", "normals", "segmentation"}
    rows = batch["index"]
    for key, array in scenes.arrays.items():
        np.testing.assert_array_equal(batch[key], array[rows])
    swept = next(iter(data.eval_batches(scenes, batch_size=3)))
    np.testing.assert_array_equal(swept["depth"], scenes.arrays["depth"][:3])


def test_arrays_source(tmp_path, scenes):
    stored = {"image": scenes.images, "label": scenes.labels, **scenes.arrays}
    np.savez(tmp_path / "train.npz", **stored)
    np.savez(tmp_path / "test.npz", image=scenes.images[:4])
    own = source(name="arrays", data_dir=str(tmp_path))
    assert (len(own), own.num_classes) == (40, 10)
    np.testing.assert_array_equal(own[7]["normals"], scenes[7]["normals"])
    bare = source("test", name="arrays", data_dir=str(tmp_path))
    assert (len(bare), bare.num_classes, int(bare[0]["label"])) == (4, 0, -1)


def test_arrays_source_errors(tmp_path):
    with pytest.raises(UserError, match="train.npz and test.npz.*--config.data.data_dir=FOLDER"):
        source(name="arrays", data_dir=str(tmp_path))
    np.savez(tmp_path / "train.npz", picture=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"holds picture uint8 \[2, 4, 4, 3\]: expected image uint8"
    ):
        source(name="arrays", data_dir=str(tmp_path))
    np.savez(
        tmp_path / "train.npz",
        image=np.zeros((2, 4, 4, 3), np.uint8),
        depth=np.zeros((2, 4, 5, 1), np.float32),
    )
    with pytest.raises(UserError, match=r"'depth' .* is \[2, 4, 5, 1\]: expected \[2, 4, 4\]"):
        source(name="arrays", data_dir=str(tmp_path))
    np.savez(tmp_path / "train.npz", image=np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(UserError, match=r"image float32 \[2, 4, 4, 3\]: expected image uint8"):
        source(name="arrays", data_dir=str(tmp_path))
