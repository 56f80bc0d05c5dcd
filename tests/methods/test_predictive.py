"""Predictive learning: a step by loops, which view sees which, and what makes it CMC's equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles

from jssl import augment, config, data, models
from jssl.errors import UserError
from jssl.methods.predictive import make_net
from jssl.run import build


def small(**settings):
    """A smoke config whose encoders halve the picture once."""
    c = small_config("predictive")
    c.model.width = 0.125
    c.predictive.update({"decoder_dim": 8, **settings})
    return c


def views_of(c, method, key, batch, step=0):
    image = method.views(jax.random.fold_in(key, step), batch["image"], jnp.int32(0))[0]
    return augment.split_views({"image": image}, c.predictive.views)


def halved(view):
    """A view at half the resolution: weights 1 - |distance| / 2 in pixels of the view, of sum 1."""
    for axis in (1, 2):
        x = np.moveaxis(np.asarray(view, np.float64), axis, 0)
        rows = []
        for i in range(len(x) // 2):
            weights = [max(0.0, 1 - abs(2 * i + 0.5 - y) / 2) for y in range(len(x))]
            rows.append(sum(w * row for w, row in zip(weights, x, strict=True)) / sum(weights))
        view = np.moveaxis(np.array(rows), 0, axis)
    return view


def error_by_loop(prediction, target, norm):
    total = 0.0
    for index in np.ndindex(target.shape):
        error = abs(float(prediction[index]) - target[index])
        total += error if norm == "l1" else error**2
    return total / target.size


@pytest.fixture(scope="module")
def begun():
    """Net, its variables at the start, and the views of the first batch."""
    c = small()
    _, method, state, _ = start(c, "jit")
    x = jax.jit(lambda key: views_of(c, method, key, tiles(4)))(state.key)
    return c, make_net(c, None), {"params": state.params, "batch_stats": state.batch_stats}, x


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_step_by_loops(norm):
    c = small(norm=norm)
    c.batch_size = 4
    launcher, method, state, step = start(c, "jit")
    key, batch = state.key, tiles(4)
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    @jax.jit
    def forward(variables, key):
        x = views_of(c, method, key, batch)
        net = make_net(c, None)
        return x, net.apply(variables, x, train=True, mutable=["batch_stats"])[0][0]

    x, predictions = forward(variables, key)
    _, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    assert {k: v.shape for k, v in predictions.items()} == {
        "l": (4, 16, 16, 2),
        "ab": (4, 16, 16, 1),
    }
    total = 0.0
    for seen, other in (("l", "ab"), ("ab", "l")):
        target = halved(x[other])
        expected = error_by_loop(predictions[seen], target, norm)
        np.testing.assert_allclose(metrics[f"loss_{seen}_{other}"], expected, rtol=1e-4)
        spread = np.mean(np.var(target, axis=(0, 1, 2)))
        explained = 1 - error_by_loop(predictions[seen], target, "l2") / spread
        np.testing.assert_allclose(metrics[f"explained_{seen}_{other}"], explained, rtol=1e-3)
        total += expected
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
    assert abs(error_by_loop(predictions["l"], halved(x["ab"]), "l1" if norm == "l2" else "l2")
               - metrics["loss_l_ab"]) > 1e-3  # fmt: skip


def test_a_prediction_sees_the_other_view_alone_and_trains_its_own_half(begun):
    _, net, variables, x = begun

    @jax.jit
    def gradients(params, x):
        def size(params, x, view):
            stats = {"batch_stats": variables["batch_stats"]}
            outputs, _ = net.apply({"params": params, **stats}, x, True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(outputs[0][view]))

        return {view: jax.grad(size, argnums=(0, 1))(params, x, view) for view in ("l", "ab")}

    found = gradients(variables["params"], x)
    for view, other in (("l", "ab"), ("ab", "l")):
        params, inputs = found[view]
        assert np.abs(inputs[view]).max() > 0
        np.testing.assert_array_equal(inputs[other], 0)
        own = params[f"encoders_{view}"]["conv_init"], params[f"decoders_{view}"]["conv1"]
        assert all(np.abs(gradient).max() > 0 for gradient in jax.tree.leaves(own))
        others = params[f"encoders_{other}"], params[f"decoders_{other}"]
        for gradient in jax.tree.leaves(others):
            np.testing.assert_array_equal(gradient, 0)


def test_features_are_those_of_cmc_with_the_same_encoders(begun):
    c, _, variables, _ = begun
    ours, _ = build.make_method(c, axis_name=None)
    other = small_config("cmc")
    other.model.width = 0.125
    _, method, state, _ = start(other, "jit")
    encoders = {k: v for k, v in variables["params"].items() if k.startswith("encoders")}
    assert jax.tree.map(jnp.shape, encoders) == jax.tree.map(
        jnp.shape, {k: v for k, v in state.params.items() if k.startswith("encoders")}
    )
    images = tiles(3)["image"]
    stats = variables["batch_stats"]
    cmcs = state.replace(params={**state.params, **encoders}, batch_stats=stats)
    expected, _ = jax.jit(method.embed)(cmcs, images)
    _, _, state, _ = start(c, "jit")
    found, named = jax.jit(ours.embed)(state.replace(params=variables["params"]), images)
    assert found.shape == (3, 2 * 16) and np.std(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(named["block_group2"], axis=(1, 2)), found, atol=1e-5)


def test_the_papers_pairs_with_l_are_views_too():
    """L and depth; a picture alone gives L's half of the features."""
    c = get_config("cmc_five_views", "smoke")
    c.data.num_examples = 64
    source = data.make_source(c.data, "train")
    batch = data.pipeline.stack([{**source[i], "notes": ()} for i in range(4)])
    batch.pop("notes")
    c = small(views=("l", "depth"))
    c.batch_size, c.model.stage_sizes = 4, (1,)
    launcher, method, state, step = start(c, "jit")
    state, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    assert 0 < metrics["loss_l_depth"] < metrics["loss"]
    assert state.params["decoders_l"]["conv1"]["kernel"].shape[-1] == 1
    embed = jax.jit(method.embed)
    whole, half = embed(state, batch)[0], embed(state, batch["image"])[0]
    assert (whole.shape, half.shape) == ((4, 16), (4, 8))
    np.testing.assert_allclose(whole[:, :8], half, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ("l", "ab", "depth")}, "predictive.views expects 2 values"),
        ({"views": ("l", "abb")}, "'abb': did you mean 'ab'"),
        ({"norm": "l3"}, "predictive.norm expects one of 'l2', 'l1', found 'l3'"),
        ({"decoder_dim": 0}, "decoder_dim expects .* found 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build.make_method(small(**settings), axis_name=None)


def test_an_encoder_without_maps_is_refused():
    c = small()
    c.model.update({**models.DEFAULTS, "name": "vit_small", "depth": 1, "patch_size": 8})
    method, _ = build.make_method(c, axis_name=None)
    with pytest.raises(UserError, match=r"last map \[B,h,w,D\]: found .*model.name=resnet18"):
        jax.eval_shape(lambda: build.first_state(c, method, 2))


@pytest.mark.parametrize("ours", ["preset", "photos"])
def test_settings_beside_the_methods_own_are_those_of_cmc(ours):
    found = {}
    for name in ("cmc", "predictive"):
        c = config.base(name, preset="v2") if ours == "preset" else get_config(f"{name}_photos")
        found[name] = {k: v for k, v in c.to_dict().items() if k not in ("method", name)}
    assert found["predictive"] == found["cmc"]
    assert found["cmc"]["optim"]["lr"] == (0.03 if ours == "preset" else 1e-3)
