"""Features of a whole source: each example once, counted; hashes; files without pickle."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jssl import data
from jssl.errors import UserError
from jssl.evaluate import (
    backbone_hash,
    embed_source,
    raw_pixels,
    save_npz,
    select_feature,
    tree_hash,
)
from jssl.parallel.launcher import make_launcher


def sums(state, images):
    """A feature that knows its image: channel sums, scaled by the state; two intermediates."""
    x = jnp.float32(images).sum(axis=(1, 2)) * state
    maps = jnp.float32(images)[:, :2, :2, :]
    return x, {"projection": -x, "map": maps}


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (23, 4, 6, 3), np.uint8)
    return data.ArraySource("mine", images, np.arange(23) % 5, num_classes=5)


@pytest.mark.parametrize("batch_size", [1, 7, 8, 23, 500])
def test_every_example_once_in_order_whatever_the_batch(source, batch_size):
    features, labels, indices = embed_source(
        jax.jit(sums), jnp.float32(2.0), source, batch_size=batch_size
    )
    np.testing.assert_array_equal(features, 2 * source.images.sum(axis=(1, 2), dtype=np.float32))
    np.testing.assert_array_equal(labels, np.arange(23) % 5)
    np.testing.assert_array_equal(indices, np.arange(23))
    assert (features.dtype, labels.dtype, indices.dtype) == (np.float32, np.int32, np.int32)


def test_compiles_once_although_the_last_batch_is_short(source):
    traced = []

    @jax.jit
    def embed(state, images):
        traced.append(images.shape)
        return sums(state, images)

    embed_source(embed, jnp.float32(1.0), source, batch_size=10)
    embed_source(embed, jnp.float32(3.0), source, batch_size=10)
    assert traced == [(10, 4, 6, 3)]


def test_intermediates_by_name_maps_flattened(source):
    one = jnp.float32(1.0)
    features, _, _ = embed_source(sums, one, source, batch_size=8, feature="projection")
    np.testing.assert_array_equal(features, -source.images.sum(axis=(1, 2), dtype=np.float32))
    features, _, _ = embed_source(sums, one, source, batch_size=8, feature="map")
    np.testing.assert_array_equal(features, source.images[:, :2, :2].reshape(23, 12))


def test_an_unknown_feature_lists_the_choices(source):
    for embed in (sums, jax.jit(sums), select_feature(sums, "projektion")):
        with pytest.raises(UserError) as error:
            embed_source(embed, jnp.float32(1.0), source, batch_size=8, feature="projektion")
        message = str(error.value)
        assert "no feature 'projektion': did you mean 'projection'?" in message
        assert "Choices: backbone, map, projection" in message


def test_only_the_selected_feature_is_computed(source):
    image = jnp.zeros((8, 64, 64, 3))

    def heavy(state, images):
        x = images.reshape(8, -1)
        return x[:, :3], {"large": x.T @ x}

    whole, part = jax.jit(heavy), jax.jit(select_feature(heavy, "backbone"))
    flops = [f.lower(None, image).compile().cost_analysis().get("flops", 0) for f in (whole, part)]
    assert flops[0] > 1e9 > 1e5 > flops[1]
    selected = jax.jit(select_feature(sums, "projection"))
    features, _, _ = embed_source(selected, jnp.float32(1.0), source, batch_size=8)
    np.testing.assert_array_equal(features, -source.images.sum(axis=(1, 2), dtype=np.float32))


def test_progress_counts_up_to_all(source):
    seen = []
    embed_source(sums, jnp.float32(1.0), source, batch_size=10, progress=lambda *a: seen.append(a))
    assert seen == [(10, 23), (20, 23), (23, 23)]


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "jit", "vmap:2"])
def test_embedding_compiled_by_the_launcher(source, mode):
    launcher = make_launcher(mode)
    embed = launcher.compile_embed(sums)
    features, _, indices = embed_source(embed, jnp.float32(1.0), source, batch_size=6)
    np.testing.assert_array_equal(features, source.images.sum(axis=(1, 2), dtype=np.float32))
    assert len(indices) == 23


def test_a_source_that_repeats_or_leaves_out_is_refused(source):
    class Wrong:
        name, num_classes, on_error, image_shape = "wrong", 5, "stop", (4, 6, 3)

        def __len__(self):
            return 23

        def __getitem__(self, index):
            return source[index // 2]

        def fingerprint(self):
            return ""

    with pytest.raises(UserError, match="'wrong' has 23 examples and 0 were skipped"):
        embed_source(sums, jnp.float32(1.0), Wrong(), batch_size=8)


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        place = tmp_path / "test" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(place)
    return tmp_path


def test_pictures_that_cannot_be_used_are_absent_and_counted(folder):
    broken = folder / "test" / "a" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    stop = data.FolderSource(str(folder), "test", on_error="stop")
    with pytest.raises(UserError, match="2.png"):
        embed_source(sums, jnp.float32(1.0), stop, batch_size=4)
    skip = data.FolderSource(str(folder), "test", on_error="skip")
    lines = []
    features, labels, indices = embed_source(
        sums, jnp.float32(1.0), skip, batch_size=4, tell=lines.append
    )
    (line,) = lines
    assert "skipped or converted: 1: skipped" in line and "2.png" in line
    assert len(features) == len(labels) == 5
    assert len(set(indices.tolist())) == 5
    assert not np.isin(features[:, 0], 40 * 2 * 64).any()
    assert sorted(features[:, 0] / (40 * 64)) == [0, 1, 3, 4, 5]


def test_a_transform_runs_on_the_host(folder):
    source = data.FolderSource(str(folder), "test", on_error="stop")
    small = data.CentreCrop(4, resize=4)
    features, _, _ = embed_source(raw_pixels, None, source, batch_size=4, transform=small)
    assert features.shape == (6, 48)


def test_raw_pixels_are_the_image_in_0_to_1(source):
    features, _, _ = embed_source(jax.jit(raw_pixels), None, source, batch_size=8)
    np.testing.assert_allclose(features, source.images.reshape(23, -1) / 255, rtol=1e-6)


# Hashes -----------------------------------------------------------------------------------------


def tree():
    return {"b": {"kernel": np.arange(6.0).reshape(2, 3)}, "a": np.zeros(2, np.float32)}


def test_hash_sees_every_leaf_bit_path_shape_and_dtype():
    first = tree_hash(tree())
    assert first == tree_hash(jax.tree.map(np.array, tree()))
    assert len(first) == 64 and int(first, 16) >= 0
    others = []
    for change in (
        lambda t: t["b"]["kernel"].__setitem__((1, 2), np.nextafter(5.0, 6.0)),
        lambda t: t["a"].__setitem__(0, -0.0),
        lambda t: t.update(a=np.zeros((2, 1), np.float32)),
        lambda t: t.update(a=np.zeros(2, np.int32)),
        lambda t: t.update(c=t.pop("a")),
        lambda t: t.update(c=np.zeros(0)),
    ):
        changed = tree()
        change(changed)
        others.append(tree_hash(changed))
    assert len({first, *others}) == 7


def test_hash_does_not_depend_on_the_order_of_a_dict_or_on_where_an_array_lies():
    assert tree_hash({"x": np.ones(2), "y": np.zeros(1)}) == tree_hash(
        {"y": np.zeros(1), "x": np.ones(2)}
    )
    assert tree_hash(np.ones(3, np.float32)) == tree_hash(jnp.ones(3))
    sharding = make_launcher("shard_map").sharding
    assert tree_hash(jax.device_put(jnp.ones(3), sharding)) == tree_hash(jnp.ones(3))
    transposed = np.arange(6.0).reshape(2, 3).T
    assert tree_hash(transposed) == tree_hash(np.array(transposed, order="C"))


def test_hash_is_the_same_in_another_process():
    words = (
        "import numpy as np; from jssl.evaluate import tree_hash;"
        "print(tree_hash({'b': {'kernel': np.arange(6.).reshape(2, 3)}, 'a': np.zeros(2, 'f4')}))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tree_hash(tree())


def test_hash_takes_keys_and_bfloat16():
    keys = [tree_hash({"key": jax.random.key(seed)}) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
    assert tree_hash(jnp.ones(2, jnp.bfloat16)) != tree_hash(jnp.ones(2, jnp.float16))


def test_backbone_hash_is_of_parameters_and_statistics_only():
    def state(**fields):
        parts = {"params": {"w": np.ones(2)}, "batch_stats": {"mean": np.zeros(2)}, "step": 0}
        return SimpleNamespace(**{**parts, **fields})

    first = backbone_hash(state())
    assert backbone_hash(state(step=5)) == first
    assert backbone_hash(state(batch_stats={"mean": np.full(2, 1e-30)})) != first
    assert backbone_hash(state(params={"w": np.array([1.0, 1.0000001])})) != first


# Files ------------------------------------------------------------------------------------------


def test_saved_features_come_back_without_pickle(source, tmp_path):
    features, labels, indices = embed_source(sums, jnp.float32(1.0), source, batch_size=8)
    path = tmp_path / "features.npz"
    save_npz(
        path,
        features,
        labels,
        indices,
        source=source,
        feature="projection",
        step=125,
        backbone_sha256="ab12",
    )
    with np.load(path, allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["features"], features)
        np.testing.assert_array_equal(saved["labels"], labels)
        np.testing.assert_array_equal(saved["indices"], indices)
        assert int(saved["step"]) == 125
        assert [str(saved[k]) for k in ("feature", "source", "backbone_sha256")] == [
            "projection",
            "mine",
            "ab12",
        ]
        assert str(saved["fingerprint"]) == source.fingerprint()
        assert all(saved[name].dtype != object for name in saved.files)
    assert [p.name for p in tmp_path.iterdir()] == ["features.npz"]


def test_output_paths_that_cannot_be_written_are_refused(source, tmp_path):
    arrays = np.ones((2, 3)), np.zeros(2), np.arange(2)
    with pytest.raises(UserError, match=r"features.csv'. Type .*features.csv.npz"):
        save_npz(tmp_path / "features.csv", *arrays, source=source)
    with pytest.raises(UserError, match="cannot be written .No such file or directory.*--output"):
        save_npz(tmp_path / "nowhere" / "f.npz", *arrays, source=source)
    with pytest.raises(ValueError, match=r"found \(2, 3\), \(1,\) and \(2,\)"):
        save_npz(tmp_path / "f.npz", arrays[0], np.zeros(1), arrays[2], source=source)
