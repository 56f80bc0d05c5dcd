"""CPC v2: what no published re-implementation gets wholly right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles

from jssl.errors import UserError
from jssl.methods import cpc
from jssl.run import build


@pytest.fixture(scope="module")
def setup():
    config = small_config("cpc", launch="jit")
    config.run.update({"num_examples": 4096, "steps_per_epoch": 100, "total_steps": 100})
    net = cpc.make_net(config)
    patches = jax.random.uniform(jax.random.key(1), (2, 4, 5, 8, 8, 3))
    params = net.init(jax.random.key(2), patches, train=True)["params"]
    return config, net, params, patches


def test_a_changed_patch_changes_only_its_own_latent(setup):
    _, net, params, patches = setup
    encode = jax.jit(lambda x: net.apply({"params": params}, x, method=cpc.Net.encode))
    grid = encode(patches)
    changed = encode(patches.at[1, 2, 3].set(1 - patches[1, 2, 3]))
    moved = np.abs(np.asarray(grid - changed)).max(axis=-1)
    assert moved[1, 2, 3] > 1e-3
    moved[1, 2, 3] = 0
    assert moved.max() <= 1e-6


def test_batch_norm_and_what_does_not_fit_are_refused():
    config = small_config("cpc")
    config.model.norm = "bn"
    with pytest.raises(UserError, match="--config.model.norm=gn1"):
        cpc.make_net(config)
    config = small_config("cpc")
    config.cpc.stride = 5
    with pytest.raises(UserError, match=r"\(32 - 8\) / 5"):
        cpc.make_net(config)
    config = small_config("cpc")
    config.cpc.offsets = (7,)
    with pytest.raises(UserError, match="grid of 7x7"):
        cpc.make_net(config)


@pytest.mark.parametrize(
    ("size", "patch", "stride", "rows", "offset", "overlap_before"),
    [(260, 80, 36, 6, 3, 8), (256, 64, 32, 7, 2, 32), (32, 8, 4, 7, 2, 4), (64, 16, 8, 7, 2, 8)],
)
def test_the_first_offset_is_the_first_without_overlap(
    size, patch, stride, rows, offset, overlap_before
):
    config = get_config("cpc_photos")
    config.augment.size, config.cpc.patch, config.cpc.stride = size, patch, stride
    assert cpc.offsets_of(config) == (offset,)
    assert (size - patch) / stride + 1 == rows
    pixels = [set(range(k * stride, k * stride + patch)) for k in range(rows)]
    assert not pixels[0] & pixels[offset]
    assert len(pixels[0] & pixels[offset - 1]) == overlap_before


def test_targets_do_not_depend_on_the_context(setup):
    _, net, params, patches = setup

    def targets(params):
        found, _ = net.apply({"params": params}, patches, train=True)
        return sum(jnp.sum(t**2) for _, t in found.values())

    grads = jax.grad(targets)(params)
    for name in cpc.DIRECTIONS:
        own = grads[f"predictors_{name}"]
        for part, tree in own.items():
            largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(tree))
            assert (largest > 0) == (part == "target"), part


def test_the_four_directions_see_what_lies_before_them():
    grid = np.arange(3 * 4).reshape(1, 3, 4)
    np.testing.assert_array_equal(cpc.turn(grid, "down")[0], grid[0])
    np.testing.assert_array_equal(cpc.turn(grid, "up")[0], grid[0, [2, 1, 0]])
    np.testing.assert_array_equal(cpc.turn(grid, "right")[0], grid[0].T)
    # from the right edge to the left: row 0 is the last column
    np.testing.assert_array_equal(cpc.turn(grid, "left")[0], grid[0].T[[3, 2, 1, 0]])


def test_directions_have_their_own_parameters_and_are_equivariant_to_flips(setup):
    _, net, params, patches = setup
    names = [f"predictors_{d}" for d in cpc.DIRECTIONS]
    leaves = [np.asarray(jax.tree.leaves(params[n])[-1]) for n in names]
    assert not any(np.allclose(leaves[0], other) for other in leaves[1:])
    swapped = {**params, names[0]: params[names[1]], names[1]: params[names[0]]}
    apply = jax.jit(lambda p, x: net.apply({"params": p}, x, train=True)[0])
    plain, flipped = apply(params, patches), apply(swapped, patches[:, ::-1])
    for a, b in (("up", "down"), ("down", "up")):
        for x, y in zip(jax.tree.leaves(plain[a]), jax.tree.leaves(flipped[b]), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
    turned = {**params, names[0]: params[names[3]]}
    x = jax.tree.leaves(apply(params, patches)["left"])
    y = jax.tree.leaves(apply(turned, patches[:, :, ::-1].swapaxes(1, 2))["down"])
    for a, b in zip(x, y, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_each_offset_has_its_own_prediction_and_counts_once():
    config = small_config("cpc")
    config.cpc.offsets = (2, 3)
    net = cpc.make_net(config)
    patches = jnp.zeros((1, 7, 7, 8, 8, 3))
    params = net.init(jax.random.key(0), patches, train=True)["params"]
    own = params["predictors_down"]
    assert {"predict2", "predict3"} <= own.keys()
    assert not np.allclose(own["predict2"]["kernel"], own["predict3"]["kernel"])
    found, _ = net.apply({"params": params}, patches, train=True)
    assert {k: p.shape[1] for k, p in found["down"][0].items()} == {2: 5, 3: 4}
    config.cpc.scale = 1e-9  # all logits equal: each offset is ln(N h w), once
    launcher, _, state, step = start(config, "jit")
    _, metrics = step(state, launcher.put_batch(tiles(16)), np.int32(0))
    np.testing.assert_allclose(metrics["loss"], 2 * np.log(16 * 49), rtol=1e-6)


def test_the_loss_at_initialisation_is_that_of_chance():
    config = small_config("cpc")
    config.model.width = 0.125  # few channels: predictions are small at first
    launcher, _, state, step = start(config, "jit")
    _, metrics = step(state, launcher.put_batch(tiles(16)), np.int32(0))
    np.testing.assert_allclose(metrics["loss"], np.log(16 * 49), atol=0.05)


def test_embed_is_the_grid_of_the_averaged_parameters():
    config = small_config("cpc", launch="jit")
    launcher, method, state, step = start(config, "jit")
    first = jax.tree.map(np.asarray, state.params)
    images = tiles(3)["image"]
    new, _ = step(state, launcher.put_batch(tiles(16)), np.int32(0))
    # at t = 0 the momentum is (1 + 0) / (10 + 0)
    for a, p, q in zip(*map(jax.tree.leaves, (new.average, first, new.params)), strict=True):
        np.testing.assert_allclose(a, 0.1 * p + 0.9 * np.asarray(q), atol=1e-6)
    features, named = method.embed(new, images)
    assert named["grid"].shape == (3, 7, 7, features.shape[1])
    np.testing.assert_allclose(features, np.mean(named["grid"], axis=(1, 2)), atol=1e-6)
    other = new.replace(params=jax.tree.map(jnp.zeros_like, new.params))
    np.testing.assert_array_equal(method.embed(other, images)[0], features)


def test_negatives_by_groups_do_not_depend_on_the_launch():
    config = small_config("cpc")
    config.cpc.negative_groups = 4
    found = []
    for mode in ("jit", "vmap:4"):
        launcher, _, state, step = start(config, mode)
        state, metrics = step(state, launcher.put_batch(tiles(16)), np.int32(0))
        found.append((float(metrics["loss"]), np.asarray(jax.tree.leaves(state.params)[0])))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)
    np.testing.assert_allclose(found[0][0], np.log(4 * 49), atol=0.05)
    config.cpc.negative_groups = 5
    with pytest.raises(UserError, match="divisor of the batch size 16"):
        build.make_method(config, axis_name=None)


def test_resnet_161_has_the_published_shape():
    config = get_config("cpc_imagenet")
    assert cpc.offsets_of(config) == (3,)
    net = cpc.make_net(config).encoder
    x = jax.ShapeDtypeStruct((1, 80, 80, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)
    assert set(variables) == {"params"}
    kernels = [p for p in jax.tree.leaves(variables) if p.ndim == 4]
    assert len(kernels) - 3 + 1 == 161  # without three shortcuts, with a classifier
    params = variables["params"]
    assert params["block_group3_block45_conv1"]["kernel"].shape == (3, 3, 512, 512)
    assert params["block_group3_block45_conv2"]["kernel"].shape == (1, 1, 512, 4096)
    # 305 M in the comparison of papers, which does not say whether a classifier is counted
    assert abs(sum(p.size for p in jax.tree.leaves(variables)) - 305e6) < 0.01 * 305e6
    out = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, x)
    assert out[0].shape == (1, 4096)


def test_the_raw_form_predicts_the_latents_themselves():
    config = get_config("cpc_photos", "smoke,form=raw")
    assert (config.cpc.target_dim, config.cpc.scale) == (0, 1.0)
    launcher, _, state, step = start(config, "jit")
    own = state.params["predictors_down"]
    D = own["predict2"]["kernel"].shape[-2]
    assert set(own) == {"context", "predict2"} and set(own["predict2"]) == {"kernel"}
    assert own["predict2"]["kernel"].shape == (1, 1, D, D)
    net = cpc.make_net(config)
    patches = jax.random.uniform(jax.random.key(0), (2, 7, 7, 8, 8, 3))
    apply = jax.jit(lambda p: net.apply({"params": p}, patches, train=True))
    found, grid = apply(state.params)
    for direction, (predictions, targets) in found.items():
        np.testing.assert_array_equal(targets, cpc.turn(grid, direction))
        assert predictions[2].shape == (2, 5, 7, D)
    before = np.asarray(own["predict2"]["kernel"])
    state, metrics = step(state, launcher.put_batch(tiles(config.batch_size)), np.int32(0))
    assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0
    assert np.abs(before - state.params["predictors_down"]["predict2"]["kernel"]).max() > 0
