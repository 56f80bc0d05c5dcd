"""BEiT: one box for both crops, the loss on masked places only, a tokenizer that stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles
from PIL import Image

from jssl import augment
from jssl import config as config_lib
from jssl.errors import UserError
from jssl.methods import beit
from jssl.models.dvae import map_pixels
from jssl.run import build, checkpoint, workdir


@pytest.fixture(scope="module")
def stepped():
    """The first state, the metrics of its step, and the state after three steps."""
    config = small_config("beit")
    config.augment.name = "none"  # what compiles at once; the crops have a test of their own
    config.beit.mask = "lecture"  # masks of several sizes
    launcher, method, state, step = start(config, "jit")
    first = jax.tree.map(jnp.copy, state)
    logged = []
    for i in range(3):
        state, metrics = step(state, launcher.put_batch(tiles(16, 31 * i)), np.int32(i))
        logged.append({k: float(v) for k, v in metrics.items()})
    return config, method, first, state, logged


def test_the_loss_is_a_naive_mean_over_masked_places(stepped):
    """Logits of ALL places, tokens of the crop, and a loop over what the mask says."""
    config, method, state, _, logged = stepped
    images = jnp.asarray(tiles(16)["image"])
    key = jax.random.fold_in(state.key, 0)
    view_key, mask_key, _ = jax.random.split(key, 3)
    x = 2 * np.asarray(method.views(view_key, images, jnp.int32(0))[0]) - 1
    mask, places, _ = beit.masks(config, mask_key, jnp.arange(16))
    crops = beit.token_views(config)(view_key, images, jnp.int32(0))
    tokenizer, net = beit.make_tokenizer(config), beit.make_net(config, None)
    codes = tokenizer.apply({"params": state.tokenizer}, map_pixels(crops))[0]
    tokens = np.argmax(np.asarray(codes), axis=-1).reshape(16, 16)
    everywhere = jnp.broadcast_to(jnp.arange(16)[None], (16, 16))
    logits = np.asarray(net.apply({"params": state.params}, x, False, mask, everywhere))
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    terms, right, said = [], 0, []
    for b, i, j in np.ndindex(16, 4, 4):
        if mask[b, i, j]:
            place = 4 * i + j
            terms.append(-log_p[b, place, tokens[b, place]])
            right += np.argmax(logits[b, place]) == tokens[b, place]
            said.append(tokens[b, place])
    np.testing.assert_allclose(logged[0]["loss"], np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(logged[0]["masked_top1"], right / len(terms), rtol=1e-5)
    np.testing.assert_allclose(
        logged[0]["top_token_share"], np.bincount(said).max() / len(said), rtol=1e-5
    )
    np.testing.assert_allclose(logged[0]["masked_share"], len(said) / 256, rtol=1e-5)
    assert len(said) < places.size  # some indices are padded: their weight matters


def test_the_loss_starts_at_the_logarithm_of_the_vocabulary(stepped):
    _, _, _, _, logged = stepped
    assert abs(logged[0]["loss"] - np.log(16)) < 0.05


def test_what_is_not_masked_and_not_gathered_has_no_say(stepped):
    """The mask token hides the pixels: changing them at M changes nothing there."""
    config, _, state, _, _ = stepped
    net, mask = beit.make_net(config, None), np.zeros((1, 4, 4), bool)
    mask[0, 1, 2] = True
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    other = x.copy()
    other[:, 8:16, 16:24] += 5.0  # patch (1, 2) of 8 px
    apply = jax.jit(lambda x: net.apply({"params": state.params}, x, False, mask, jnp.array([[6]])))
    np.testing.assert_array_equal(apply(x), apply(other))
    assert np.any(np.asarray(apply(x)) != np.asarray(apply(np.roll(x, 8, axis=1))))


def test_the_tokenizer_is_frozen_and_outside_the_optimiser(stepped):
    _, _, first, last, _ = stepped
    before, after = (checkpoint.flat_leaves(s.tokenizer) for s in (first, last))
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf)
    shapes = {x.shape for x in jax.tree.leaves(first.tokenizer)} - {()}
    assert (7, 7, 3, 4) in shapes
    assert (7, 7, 3, 4) not in {x.shape for x in jax.tree.leaves((last.opt_state, last.params))}


def test_both_crops_are_of_one_box_with_one_flip():
    """A picture whose colours are its coordinates tells where a crop lies."""
    config = small_config("beit")
    config.augment.options.scale = (0.1, 0.6)
    method, _ = build.make_method(config, axis_name=None)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    places = np.stack([*np.meshgrid(ramp, ramp, indexing="ij"), np.zeros((64, 64))], axis=-1)
    images, key = jnp.stack([jnp.float32(places)] * 8), jax.random.key(4)
    whole = np.asarray(method.views(key, images, jnp.int32(0))[0])
    small = np.asarray(beit.token_views(config)(key, images, jnp.int32(0)))
    assert whole.shape == (8, 32, 32, 3) and small.shape == (8, 8, 8, 3)
    pooled = whole.reshape(8, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    # away from the border, where kernels are cut, both are the ramp itself
    np.testing.assert_allclose(pooled[:, 2:6, 2:6], small[:, 2:6, 2:6], atol=4e-3)
    corners = small[:, 3, 3, :2]
    assert np.ptp(corners, axis=0).min() > 0.1  # the boxes differ between images
    assert len({bool(x) for x in small[:, 3, 5, 1] < small[:, 3, 2, 1]}) == 2  # some are flipped


def test_lanczos_is_that_of_pil():
    image = np.random.default_rng(0).random((23, 31, 1)).astype(np.float32)
    box = augment.Box(*(jnp.int32(v) for v in (2, 5, 20, 24)))
    resize = jax.jit(
        lambda x: augment.crop_resize(x, box, size=9, method="lanczos", antialias=True)
    )
    cut = Image.fromarray(image[2:22, 5:29, 0])
    expected = np.asarray(cut.resize((9, 9), Image.Resampling.LANCZOS))
    np.testing.assert_allclose(resize(image)[..., 0], expected, atol=1e-5)


def test_the_network_is_beit_base():
    """91,965,776 parameters of the official model of masked image modelling, 14 x 14 tokens."""
    config = get_config("beit_imagenet")
    net = beit.make_net(config, None)
    arguments = jnp.zeros((1, 224, 224, 3)), False, jnp.zeros((1, 14, 14), bool)
    places = jnp.zeros((1, 75), jnp.int32)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *arguments, places))
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["params"]))
    assert count == 91_965_776
    assert shapes["params"]["encoder"]["relative_table"].shape == (732, 12)
    assert config.augment.size // 16 * 2 ** (config.beit.groups - 1) == 112
    o = config.optim
    assert (o.name, o.lr, o.weight_decay, o.clip_norm) == ("adamw", 1.5e-3, 0.05, 3.0)


def test_a_missing_tokenizer_says_how_to_train_one(tmp_path):
    config = small_config("beit")
    for name, message in (
        ("", "names none"),
        (str(tmp_path / "no"), "is not the workdir of a run"),
    ):
        config.beit.tokenizer = name
        with pytest.raises(UserError, match=f"(?s){message}.*jssl train --config=dvae_"):
            build.build(config)
    workdir.open_workdir(tmp_path / "other", small_config("simclr"))
    config.beit.tokenizer = str(tmp_path / "other")
    with pytest.raises(UserError, match="is a run of method 'simclr', expected 'dvae'"):
        build.build(config)


def made_up(config):
    """A state of the right shapes without compiling anything: leaf n holds n, n + 1, ..."""
    method, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 16))
    shapes, structure = jax.tree.flatten(shapes)
    leaves = [
        jax.random.key(0)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else jnp.asarray(n + np.arange(x.size).reshape(x.shape), x.dtype)
        for n, x in enumerate(shapes)
    ]
    return jax.tree.unflatten(structure, leaves)


def test_the_tokenizer_of_a_run_is_what_the_state_begins_with(tmp_path):
    other = small_config("dvae")
    config_lib.apply(other, {"dvae": {"vocabulary": 24}})
    workdir.open_workdir(tmp_path, other)
    trained = made_up(other)
    saved = checkpoint.Checkpoints(tmp_path, method="dvae")
    saved.save(0, trained, {"next_step": 0})
    saved.close()
    config = small_config("beit")
    config.beit.tokenizer = str(tmp_path)
    build.resolve(config)
    assert (config.beit.vocabulary, config.beit.hidden, config.beit.groups) == (24, 8, 2)
    first = made_up(config)
    state = build.put_other_runs(config, first)
    found, expected = map(checkpoint.flat_leaves, (state.tokenizer, trained.params["encoder"]))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)
    assert state.params is first.params
    config.beit.hidden = 4
    with pytest.raises(UserError, match="other shapes than config.beit says"):
        build.put_other_runs(config, made_up(config))
