"""CMC: its views, its bank and Z over steps, its losses' composition, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles

from jssl import augment, config, losses
from jssl.errors import UserError
from jssl.methods.cmc import make_net
from jssl.run import build, checkpoint
from jssl.state import draw_candidates, lookup


def cmc_config(name="cmc_photos", **settings):
    """A smoke config with one small block for each view."""
    c = get_config(name, "smoke")
    c.model.stage_sizes = (1,)
    c.cmc.num_negatives = 32
    c.run.update({"num_examples": 4096, "steps_per_epoch": 100, "total_steps": 100})
    c.cmc.update(settings)
    return c


def steps(c, mode="jit", count=2, batch=None):
    launcher, method, state, step = start(c, mode)
    states, history = [jax.tree.map(np.asarray, state.replace(key=0))], []
    for i in range(count):
        data = tiles(c.batch_size, 31 * i) if batch is None else batch
        state, metrics = step(state, launcher.put_batch(data), np.int32(i))
        states.append(jax.tree.map(np.asarray, state.replace(key=0)))
        history.append({k: float(v) for k, v in metrics.items()})
    return method, states, history, state


@pytest.fixture(scope="module")
def nce():
    c = cmc_config(contrast="nce")
    return c, *steps(c)


def scores_at(c, method, before, key, step, bank):
    """The scores of a step, from the parameters before it and a bank."""
    batch = tiles(c.batch_size, 31 * step)
    crop_key, draw_key = jax.random.split(jax.random.fold_in(key, step))

    @jax.jit
    def embeddings(variables, images):
        image = method.views(crop_key, images, jnp.int32(0))[0]
        x = augment.split_views({"image": image}, c.cmc.views)
        return make_net(c, None).apply(variables, x, train=True, mutable=["batch_stats"])[0][0]

    variables = {"params": before.params, "batch_stats": before.batch_stats}
    z = embeddings(variables, batch["image"])
    index = draw_candidates(
        draw_key,
        jnp.asarray(batch["index"]),
        jnp.int32(0),
        num_negatives=c.cmc.num_negatives,
        num_examples=c.run.num_examples,
    )
    return z, losses.multiview_scores(z, lookup(jnp.asarray(bank), index), graph="core")


# The state over steps ---------------------------------------------------------------------------


def test_z_is_set_by_the_first_batch_for_each_direction_and_then_stays(nce):
    c, method, states, _, last = nce
    assert states[0].normalizers.shape == (1, 2)
    np.testing.assert_array_equal(states[0].normalizers, -1.0)
    _, scores = scores_at(c, method, states[0], last.key, 0, states[0].bank)
    expected = np.mean(np.exp(np.float64(scores) / 0.07), axis=(2, 3)) * 4096
    np.testing.assert_allclose(states[1].normalizers, expected, rtol=1e-4)
    np.testing.assert_array_equal(states[2].normalizers, states[1].normalizers)
    _, second = scores_at(c, method, states[1], last.key, 1, states[1].bank)
    moved = np.mean(np.exp(np.float64(second) / 0.07), axis=(2, 3)) * 4096
    assert np.abs(moved / states[1].normalizers - 1).min() > 0.01


def test_the_loss_is_of_the_bank_before_the_step_which_then_changes_at_y_alone(nce):
    c, method, states, history, last = nce
    z, scores = scores_at(c, method, states[1], last.key, 1, states[1].bank)

    def total(scores):
        loss = losses.nce(scores, states[1].normalizers, temperature=0.07, num_examples=4096)
        return float(jnp.mean(jnp.sum(loss, axis=(0, 1))))

    assert history[1]["loss"] == pytest.approx(total(scores), rel=1e-4)
    _, late = scores_at(c, method, states[1], last.key, 1, states[2].bank)
    assert abs(total(late) / history[1]["loss"] - 1) > 0.01  # had the bank been written before
    y = tiles(c.batch_size, 31)["index"]
    before, after = states[1].bank, states[2].bank
    others = np.setdiff1d(np.arange(4096), y)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    np.testing.assert_allclose(np.linalg.norm(after[:, y], axis=-1), 1.0, rtol=1e-5)
    rows = 0.5 * before[:, y] + 0.5 * np.asarray(z)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    np.testing.assert_allclose(after[:, y], rows, atol=1e-5)


def test_bank_and_z_are_the_same_on_every_device():
    _, _, _, state = steps(cmc_config(contrast="nce"), "pmap", count=1)
    for leaf in (state.bank, state.normalizers):
        shards = [np.asarray(s.data) for s in leaf.addressable_shards]
        assert len(shards) == 4 and shards[0].shape == leaf.shape
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def test_under_shard_map_each_device_holds_its_part_of_the_bank(tmp_path):
    """And a checkpoint of the parts restores whole, and in parts again."""
    config = cmc_config(contrast="nce")
    _, _, _, state = steps(config, "shard_map", count=1)
    assert state.bank.shape == (2, 4096, config.cmc.proj_dim)
    parts = sorted(state.bank.addressable_shards, key=lambda s: s.index[1].start)
    assert [(s.index[1].start, s.index[1].stop) for s in parts] == [
        (i * 1024, i * 1024 + 1024) for i in range(4)
    ]
    saved = checkpoint.Checkpoints(tmp_path, method="cmc")
    saved.save(1, state, {})
    saved.wait()
    for mode, shards in (("jit", 1), ("shard_map", 4)):
        _, _, blank, _ = start(cmc_config(contrast="nce"), mode)
        restored, _ = saved.restore(blank)
        assert len({s.index[1].start for s in restored.bank.addressable_shards}) == shards
        np.testing.assert_array_equal(restored.bank, state.bank)
    saved.close()


def test_four_devices_with_their_own_batch_statistics_equal_four_groups():
    """DataParallel's statistics per GPU, and the whole batch's Z and negatives."""
    found = []
    for mode, groups in (("jit", 4), ("vmap:4", 4), ("jit", 1), ("jit", 2), ("pmap", 2)):
        c = cmc_config(contrast="nce")
        c.model.bn_groups = groups
        found.append(steps(c, mode)[2][-1]["loss"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[4], found[3], rtol=1e-4)  # two devices a group
    assert abs(found[2] / found[0] - 1) > 1e-3  # a common normalisation is another method


def test_in_batch_has_no_bank():
    _, states, history, _ = steps(cmc_config(contrast="in_batch"), count=1)
    assert states[1].bank == {}
    N = 16
    assert history[0]["mi_bound"] <= math.log(N - 1)
    # The two directions' mean is L_contrast.
    assert history[0]["loss"] == pytest.approx(
        2 * (math.log(N - 1) - history[0]["mi_bound"]), rel=1e-5
    )


# The loss ---------------------------------------------------------------------------------------


def test_loss_at_the_start_and_the_bound_that_is_logged():
    """Random rows: scores / T have variance 1 / (D T^2) = 1.6, ln(K) + 0.8 in each direction."""
    c = cmc_config(contrast="softmax", num_negatives=512)
    c.batch_size = 32
    _, _, history, _ = steps(c, count=1)
    expected = math.log(512) + 1 / (2 * 128 * 0.07**2)
    assert abs(history[0]["loss"] / 2 - expected) < 0.5  # 3 sigma of 64 positive scores
    assert history[0]["mi_bound"] == pytest.approx(math.log(512) - history[0]["loss"] / 2, rel=1e-4)
    assert history[0]["mi_bound_l_ab"] == history[0]["mi_bound"]
    assert 0 <= history[0]["contrastive_top1"] < 0.1


def test_each_view_has_an_encoder_and_a_head_of_its_own(nce):
    c, _, states, _, _ = nce
    params = states[0].params
    assert set(params) == {"encoders_l", "encoders_ab", "heads_l", "heads_ab"}
    assert params["encoders_l"]["conv_init"]["kernel"].shape[2] == 1
    assert params["encoders_ab"]["conv_init"]["kernel"].shape[2] == 2
    for view in ("l", "ab"):
        assert params[f"heads_{view}"]["dense0"]["kernel"].shape[1] == 128
    late = states[2].params
    for name in params:
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), params[name], late[name])
        assert all(jax.tree.leaves(moved)), name


def test_embed_is_the_features_of_all_views_side_by_side(nce):
    c, method, _, _, state = nce
    images = tiles(5)["image"]
    h, named = jax.jit(method.embed)(state, images)
    assert h.shape == (5, 2 * 16)
    assert named["projection"].shape == (5, 2 * 128)
    assert named["block_group1"].shape[-1] == 2 * 16
    # The picture without colour: L's half stays what it is, ab's becomes another.
    grey = np.repeat(np.asarray(augment.rgb_to_lab(images / 255.0))[..., :1], 3, -1)
    y = np.where(grey > 8, ((grey + 16) / 116) ** 3, grey / 903.3)  # L back to luminance
    srgb = np.where(y > 0.0031308, 1.055 * y ** (1 / 2.4) - 0.055, 12.92 * y)
    other, _ = jax.jit(method.embed)(state, np.float32(srgb))
    np.testing.assert_allclose(other[:, :16], h[:, :16], atol=5e-3)
    assert np.abs(other[:, 16:] - h[:, 16:]).max() > 0.05


# More views -------------------------------------------------------------------------------------


def scene_batch(name, size):
    from jssl import data

    c = get_config(name, "smoke")
    c.data.num_examples = 64
    source = data.make_source(c.data, "train")
    return data.pipeline.stack([{**source[i], "notes": ()} for i in range(size)])


@pytest.mark.parametrize(
    ("name", "graph", "pairs"),
    [
        ("cmc_five_views", "full", 10),
        ("cmc_video", "core", 2),
    ],
)
def test_more_than_two_views(name, graph, pairs):
    c = cmc_config(name, graph=graph)
    c.batch_size = 8
    batch = scene_batch(name, 8)
    batch.pop("notes")
    method, states, history, state = steps(c, batch=batch)
    views = c.cmc.views
    bounds = {k: v for k, v in history[0].items() if k.startswith("mi_bound_")}
    assert len(bounds) == pairs and states[0].normalizers.shape == (pairs, 2)
    if graph == "core":
        assert all(k.startswith(f"mi_bound_{views[0]}_") for k in bounds)
    assert np.mean(list(bounds.values())) == pytest.approx(history[0]["mi_bound"], rel=1e-4)
    expected = 2 * sum(math.log(32) - bound for bound in bounds.values())
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), states[0].params, states[2].params)
    assert all(jax.tree.leaves(moved))
    channels = {v: states[0].params[f"encoders_{v}"]["conv_init"]["kernel"].shape[2] for v in views}
    known = {"l": 1, "ab": 2, "depth": 1, "normals": 3, "segmentation": 4}
    assert channels == {v: {**known, "frame": 3, "later": 3, "flow": 20}[v] for v in views}
    embed = jax.jit(method.embed)
    everything, from_picture = embed(state, batch)[0], embed(state, batch["image"])[0]
    assert everything.shape == (8, 16 * len(views))
    shared = from_picture.shape[1]
    assert shared == 16 * len([v for v in views if v in ("l", "ab", "frame")])
    np.testing.assert_allclose(everything[:, :shared], from_picture, atol=1e-5)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cmc_five_views", ["depth float32 [32, 32, 1]", "normals", "segmentation int32 [32, 32]"]),
        ("cmc_video", ["later uint8 [32, 32, 3]", "flow float32 [32, 32, 20]"]),
    ],
)
def test_data_without_the_arrays_are_refused_with_what_they_must_hold(name, words):
    c = get_config(name, "smoke")
    c.data.name = "photos"
    with pytest.raises(UserError) as error:
        build.build(c)
    for word in [*words, "'photos' lacks the arrays", "image uint8", "--config.data.name=arrays"]:
        assert word in str(error.value)


def test_a_batch_without_the_arrays_is_refused_by_the_step():
    c = cmc_config("cmc_five_views")
    _, method, state, _ = start(c, "jit")
    with pytest.raises(UserError, match="depth.*normals.*segmentation"):
        method.train_step(state, {k: jnp.asarray(v) for k, v in tiles(8).items()})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ("l",)}, "cmc.views expects 2 or more values"),
        ({"views": ("l", "abb")}, "'abb': did you mean 'ab'"),
        ({"contrast": "softmx"}, "did you mean 'softmax'"),
        ({"graph": "cor"}, "found 'cor' .did you mean 'core'"),
        ({"num_negatives": 0}, "num_negatives expects .* found 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    c = small_config("cmc")
    c.cmc.update(settings)
    with pytest.raises(UserError, match=message):
        build.make_method(c, axis_name=None)


def test_crops_of_the_host_cannot_cut_the_other_arrays():
    c = cmc_config("cmc_five_views")
    c.data.host_crop = "tf"
    with pytest.raises(UserError, match="host_crop='tf'"):
        build.make_method(c, axis_name=None)


# The papers' settings ---------------------------------------------------------------------------


def test_the_settings_are_those_of_the_official_code():
    c = config.base("cmc", preset="v2")
    assert (c.batch_size, c.epochs, c.cmc.temperature, c.cmc.bank_momentum) == (128, 240, 0.07, 0.5)
    assert (c.optim.name, c.optim.lr, c.optim.momentum, c.optim.weight_decay) == (
        "sgd", 0.03, 0.9, 1e-4,
    )  # fmt: skip
    assert c.optim.boundaries == (120, 160, 200) and c.optim.step_factor == 0.1
    assert c.model.stem_width_fixed and c.augment.options.scale == (0.08, 1.0)
    assert [config.base("cmc", preset=f"v{i}").model.width for i in (1, 2, 3)] == [0.5, 1, 2]
    assert c.optim.rules == (("", "decay+adapt"),)  # every parameter decays
    assert get_config("cmc_imagenet", "view=YCbCr").cmc.views == ("y", "cbcr")
    with pytest.raises(UserError, match="view=YUV"):
        get_config("cmc_imagenet", "view=YUV")
    for views in (1, 6):
        with pytest.raises(UserError, match=f"views={views}: expected views=2 to views=5"):
            get_config("cmc_five_views", f"views={views}")
