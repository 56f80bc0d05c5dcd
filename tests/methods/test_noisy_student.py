"""Noisy Student's step: one pass over both halves, weights of losses, averages, what is frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config, start, tiles

from jssl import models, optim
from jssl.config import base
from jssl.errors import UserError
from jssl.methods import noisy_student
from jssl.models import efficientnet as eff
from jssl.parallel.launcher import make_launcher
from jssl.state import warmup_momentum


def config_of(**settings):
    config = small_config("noisy_student", launch="jit", batch_size=8)
    config.augment.name = "none"
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "stem": "cifar"})
    config.noisy_student.update(settings)
    return config


def tiny_efficientnet(monkeypatch, **switches):
    """Stem, two blocks of which the second drops, head: every kind of part, quick to compile."""
    stages = (eff.Stage(1, 3, 1, 1, 16), eff.Stage(2, 3, 1, 2, 16))
    monkeypatch.setattr(
        noisy_student.models,
        "build",
        lambda c, *, axis_name, dtype: models.EfficientNet(
            width=0.25, stages=stages, axis_name=axis_name, dtype=dtype, **switches
        ),
    )


def stepped(config, batch, mode="jit"):
    launcher, method, state, step = start(config, mode)
    before = jax.tree.map(jnp.copy, state)
    after, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    return method, before, after, {k: float(v) for k, v in metrics.items()}


def cross_entropy(logits, targets):
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(targets * log_p).sum(1).mean()


def plain_forward(config, state, images):
    """Logits and statistics of one training pass, without noise."""
    net = noisy_student.make_net(config, None)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    (logits, _, _), updated = net.apply(
        variables, images / np.float32(255), train=True, mutable=["batch_stats"]
    )
    return np.asarray(logits, np.float64), updated["batch_stats"]


@pytest.mark.parametrize(("weighting", "targets"), [("lecture", "soft"), ("ratio", "hard")])
def test_the_loss_is_the_lectures_or_the_official_one(weighting, targets):
    """Worked out in numpy from the logits of ONE pass over both halves.

    Labels and hard pseudo-labels are smoothed, soft ones are not.
    """
    config = config_of(weighting=weighting, targets=targets, dropout=0.0, temperature=2.0)
    batch = tiles(8)
    _, before, after, metrics = stepped(config, batch)
    images = np.concatenate([batch["image"], batch["unlabeled_image"].reshape(-1, 32, 32, 3)])
    logits, stats = plain_forward(config, before, images)
    smooth = 0.9 * np.eye(16)[batch["label"]] + 0.1 / 16
    probs = batch["unlabeled_probs"].reshape(-1, 16).astype(np.float64)
    soft = np.sqrt(probs) / np.sqrt(probs).sum(1, keepdims=True)
    hard = 0.9 * np.eye(16)[probs.argmax(1)] + 0.1 / 16
    labelled = cross_entropy(logits[:8], smooth)
    unlabelled = cross_entropy(logits[8:], soft if targets == "soft" else hard)
    weight = {"lecture": 1, "ratio": 2}[weighting]
    np.testing.assert_allclose(metrics["labelled_loss"], labelled, rtol=1e-5)
    np.testing.assert_allclose(metrics["unlabelled_loss"], unlabelled, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], labelled + weight * unlabelled, rtol=1e-5)
    # Two passes are another method: each half would be normalised by itself.
    apart, _ = plain_forward(config, before, images[:8])
    assert abs(cross_entropy(apart, smooth) - labelled) > 3e-4  # ten times what is tolerated above
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.batch_stats, stats)


def test_without_unlabelled_images_it_is_supervised():
    config = config_of(dropout=0.0)
    batch = {k: v for k, v in tiles(8).items() if not k.startswith("unlabeled")}
    _, before, _, metrics = stepped(config, batch)
    logits, _ = plain_forward(config, before, batch["image"])
    smooth = 0.9 * np.eye(16)[batch["label"]] + 0.1 / 16
    np.testing.assert_allclose(metrics["loss"], cross_entropy(logits, smooth), rtol=1e-5)
    assert "unlabelled_loss" not in metrics


def test_a_softened_probability_is_the_softmax_of_softened_logits():
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 3
    probs = jax.nn.softmax(logits, axis=1)
    for temperature in (0.5, 1.0, 4.0):
        found = noisy_student.sharpen(probs, kind="soft", temperature=temperature)
        np.testing.assert_allclose(found, jax.nn.softmax(logits / temperature, axis=1), rtol=1e-4)
    hard = noisy_student.sharpen(probs, kind="hard", temperature=1.0)
    np.testing.assert_array_equal(hard, np.eye(7)[logits.argmax(1)])


def test_averages_take_in_weights_and_running_statistics():
    """Step 0 moves them nine tenths of the way: min(decay, (1 + t) / (10 + t)) is .1."""
    config = config_of(ema_decay=0.9999)
    config.optim.warmup_epochs = 0.0
    _, before, after, metrics = stepped(config, tiles(8))
    assert metrics["ema_momentum"] == pytest.approx(0.1)
    assert jax.tree.leaves(after.average_stats)
    for old, new, average in (
        (before.params, after.params, after.average),
        (before.batch_stats, after.batch_stats, after.average_stats),
    ):
        expected = jax.tree.map(lambda o, n: 0.1 * o + 0.9 * n, old, new)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, expected)
        moved = [
            bool(jnp.any(o != n)) for o, n in zip(*map(jax.tree.leaves, (old, new)), strict=True)
        ]
        assert all(moved)


def test_the_warm_up_of_the_average():
    values = {0: 0.1, 10: 0.55, 100: 0.918, 1000: 0.991, 10000: 0.9991, 10**7: 0.9999}
    for step, expected in values.items():
        found = float(warmup_momentum(jnp.int32(step), decay=0.9999))
        assert found == pytest.approx(expected, abs=5e-4)


def test_the_teacher_is_the_average_without_noise(monkeypatch):
    """Dropout .5 and stochastic depth .5 are on: two keys still give the same word."""
    tiny_efficientnet(monkeypatch, stochastic_depth=0.5)
    config = config_of(dropout=0.5)
    _, method, state, _ = start(config, "jit")
    state = state.replace(average=jax.tree.map(lambda x: 0.9 * x, state.params))
    images = tiles(6)["image"]
    embed = jax.jit(method.embed)
    first = embed(state, images)[1]["logits"]
    other = state.replace(key=jax.random.key(99), step=state.step + 5)
    np.testing.assert_array_equal(first, embed(other, images)[1]["logits"])
    zeros = jax.tree.map(jnp.zeros_like, (state.params, state.batch_stats))
    blank = state.replace(params=zeros[0], batch_stats=zeros[1])
    np.testing.assert_array_equal(first, embed(blank, images)[1]["logits"])
    moved = state.replace(average=jax.tree.map(lambda x: x + 0.1, state.average))
    assert not np.allclose(first, embed(moved, images)[1]["logits"])
    moved = state.replace(average_stats=jax.tree.map(lambda x: x + 0.1, state.average_stats))
    assert not np.allclose(first, embed(moved, images)[1]["logits"])


def test_noise_is_drawn_for_every_image_by_itself(monkeypatch):
    """Equal images of one batch come out differently, with the same number equally."""
    tiny_efficientnet(monkeypatch, stochastic_depth=0.6)
    config = config_of(dropout=0.0)
    _, _, state, _ = start(config, "jit")
    net = noisy_student.make_net(config, None)
    image = jnp.broadcast_to(jnp.asarray(tiles(1)["image"][0] / 255.0), (12, 32, 32, 3))
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    @jax.jit
    def features(rows):
        keys = {name: jax.random.key(0) for name in ("dropout", "stochastic_depth")}
        (_, h, _), _ = net.apply(
            variables, image, train=True, rows=rows, rngs=keys, mutable=["batch_stats"]
        )
        return h

    different = np.asarray(features(jnp.arange(12)))
    assert len(np.unique(different.round(5), axis=0)) >= 2
    same = np.asarray(features(jnp.zeros(12, jnp.int32)))
    np.testing.assert_allclose(same, same[:1].repeat(12, 0), atol=1e-6)


def test_numbers_of_images_do_not_depend_on_the_devices():
    batch = {k: v for k, v in tiles(8).items() if "image" in k}
    images, rows = noisy_student.joined(batch, None)
    np.testing.assert_array_equal(rows, np.arange(24))
    whole = dict(zip(np.asarray(rows).tolist(), np.asarray(images), strict=True))
    split = make_launcher("vmap:4").put_batch(batch)
    images, rows = jax.vmap(lambda b: noisy_student.joined(b, "i"), axis_name="i")(split)
    assert sorted(np.asarray(rows).ravel().tolist()) == list(range(24))
    for row, image in zip(np.asarray(rows).ravel().tolist(),
                          np.asarray(images).reshape(-1, 32, 32, 3), strict=True):  # fmt: skip
        np.testing.assert_array_equal(image, whole[row])


def test_frozen_blocks_stand_still_with_their_statistics(monkeypatch):
    tiny_efficientnet(monkeypatch)
    config = config_of(frozen_blocks=2, dropout=0.0)
    config.optim.update({"name": "sgd", "lr": 0.1, "lr_scaling": "none", "warmup_epochs": 0.0,
                         "weight_decay": 0.1, "rules": optim.EVERYTHING})  # fmt: skip
    batch = {k: v for k, v in tiles(8).items() if not k.startswith("unlabeled")}
    _, before, after, _ = stepped(config, batch)
    still = ("stem_", "block0_", "block1_")
    for old, new in ((before.params, after.params), (before.batch_stats, after.batch_stats)):
        for name, part in old["encoder"].items():
            changed = [
                bool(np.any(np.asarray(a) != np.asarray(b)))
                for a, b in zip(*map(jax.tree.leaves, (part, new["encoder"][name])), strict=True)
            ]
            assert not any(changed) if name.startswith(still) else all(changed), name


def test_frozen_blocks_need_an_efficientnet():
    with pytest.raises(UserError, match="blocks of an EfficientNet, found model.name='resnet8'"):
        noisy_student.make_net(config_of(frozen_blocks=1), None)


def test_b0_with_its_classifier_has_the_published_parameters_and_decay():
    """SE and classifier biases decay, as their names lack 'batch_normalization'."""
    config = config_of(num_classes=1000)
    config.model.update(
        {"name": "efficientnet_b0", "width": 1.0, "stem": "imagenet", "stage_sizes": ()}
    )
    net = noisy_student.make_net(config, None)
    x = jnp.zeros((1, 64, 64, 3))
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))["params"]
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)) == 5_288_548
    groups = optim.groups(params, rules=base("noisy_student", preset="imagenet").optim.rules)
    excluded = {name for name, group in groups.items() if group == "none"}
    assert excluded == {name for name in groups if name.split("/")[-2].endswith("_bn")}
    assert groups["encoder/block3_se_expand/bias"] == "decay+adapt"
    assert groups["classifier/bias"] == "decay+adapt"


def test_generations_start_from_draws_of_their_own():
    states = [start(config_of(generation=g), "jit")[2] for g in (0, 1)]
    a, b = (np.asarray(s.params["encoder"]["conv_init"]["kernel"]) for s in states)
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(states[0].average["encoder"]["conv_init"]["kernel"], a)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"weighting": "lektur"},
            "weighting expects .* found 'lektur' .did you mean 'lecture'",
        ),
        ({"targets": "hart"}, "targets expects .* found 'hart' .did you mean 'hard'"),
        ({"temperature": -1.0}, "temperature expects a number above 0, found -1.0"),
    ],
)
def test_mistakes_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        start(config_of(**settings), "jit")
